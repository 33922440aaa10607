"""Times training steps of a network in PyTorch: the peer of examples/compare_fusion.

    python benchmarks/pytorch_step.py --model resnet20 --mode eager --steps 20

A step is zero_grad(set_to_none) + forward + cross entropy + backward + SGD, on one fixed random batch, channels last.

  eager      PyTorch as it is written, with its fused SGD
  compiled   torch.compile of forward and loss (their backward is compiled with them); the fused SGD beside it
  whole      torch.compile of the entire step, with compiled autograd

As a worker (--serve) it says one line of JSON about the model and its first step, then answers each line `N` on
standard input with the times of N steps. In between it sleeps in a read, so that others can be timed meanwhile.
"""

import argparse
import json
import os
import resource
import sys
import time

# glibc hands large blocks back to the kernel when they are freed, and a step then spends a fifth of its time on
# page faults. Keeping the heap is what PyTorch's tuning guide gets from jemalloc; the peer gets it too.
KEPT_HEAP = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


# What torch_resnet.py and torch_zoo.py have; asked for before PyTorch is imported.
MODEL_NAMES = ["resnet20", "resnet56", "resnet18", "mobilenet_v2", "mobilenet_v2_silu", "bottleneck", "vgg",
               "vgg_without_norms", "inception"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", choices=MODEL_NAMES)
    parser.add_argument("--mode", default="eager", choices=["eager", "compiled", "whole"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16"], help="bf16: autocast")
    parser.add_argument("--layout", default="channels_last", choices=["channels_last", "contiguous_format"])
    parser.add_argument("--heap", default="kept", choices=["kept", "system"], help="system: glibc's defaults")
    parser.add_argument("--steps", type=int, default=20, help="steps to time when not serving")
    parser.add_argument("--settle", type=int, default=2, help="untimed steps before each timed block")
    parser.add_argument("--serve", action="store_true", help="read the counts from standard input")
    return parser.parse_args()


def restart_with_environment(options):
    """glibc and libgomp read their settings before Python runs, so the process starts over with them."""
    wanted = {"OMP_NUM_THREADS": str(options.threads)} | (KEPT_HEAP if options.heap == "kept" else {})
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, *sys.argv])


class Training:
    """A model, its batch and its optimizer; `step()` is what is timed."""

    def __init__(self, options):
        torch.manual_seed(0)
        layout = getattr(torch, options.layout)
        self.model = MODELS[options.model](10).to(memory_format=layout).train()
        self.images = torch.randn(options.batch, 3, 32, 32).to(memory_format=layout)
        self.labels = torch.randint(0, 10, (options.batch,))
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16")
        self.sgd = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
        if options.mode == "compiled":
            self.forward = torch.compile(self.forward)
        elif options.mode == "whole":
            torch._dynamo.config.compiled_autograd = True
            self.step = torch.compile(self.step)

    def forward(self):
        with self.autocast:
            return F.cross_entropy(self.model(self.images), self.labels)

    def step(self):
        self.sgd.zero_grad(set_to_none=True)
        loss = self.forward()
        loss.backward()
        self.sgd.step()
        return loss.detach()

    def kept_bytes(self):
        """What autograd holds between forward and backward, beside parameters, statistics and inputs."""
        own = [*self.model.parameters(), *self.model.buffers(), self.images, self.labels]
        given = {tensor.untyped_storage().data_ptr() for tensor in own}
        kept = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in given:
                kept[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.forward()
        return sum(storage.nbytes() for storage in kept.values())


def most_resident_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def step_ms(training):
    start = time.perf_counter()
    training.step()
    return round((time.perf_counter() - start) * 1e3, 3)


def timed_block(training, steps, settle):
    for _ in range(settle):
        training.step()
    return [step_ms(training) for _ in range(steps)]


def say(**answer):
    print(json.dumps(answer), flush=True)


def main(options):
    torch.set_num_threads(options.threads)
    before = most_resident_bytes()
    training = Training(options)
    about = {name: getattr(options, name)
             for name in ("model", "mode", "batch", "threads", "precision", "layout", "heap")}
    first = step_ms(training)
    # By which the process grew, as compare_fusion counts it; a compiler's own memory says nothing.
    resident = most_resident_bytes() - before if options.mode == "eager" else None
    # The compiled whole step leaves no forward to look into.
    kept = None if options.mode == "whole" else training.kept_bytes()
    say(torch=torch.__version__, **about, first_step_ms=first, kept_bytes=kept, resident_bytes=resident,
        loss=training.step().item())

    if not options.serve:
        say(step_ms=timed_block(training, options.steps, options.settle))
        return
    for line in sys.stdin:
        say(step_ms=timed_block(training, int(line), options.settle))


if __name__ == "__main__":
    parsed = arguments()
    restart_with_environment(parsed)

    import torch
    import torch.nn.functional as F
    import torch_resnet
    import torch_zoo

    MODELS = torch_resnet.MODELS | torch_zoo.MODELS

    main(parsed)
