"""Times training steps of a residual network in PyTorch on a GPU: the peer of `compare_fusion --device cuda`.

    python benchmarks/gpu_pytorch.py --model resnet20 --mode eager --precision bf16 --steps 50

A step is forward + cross entropy + backward + fused SGD, on one random batch that stays on the device, channels
last, cuDNN's benchmarking on. Its time ends when the device is done, as compare_fusion's does. f16 has no loss
scaling, as there.

  eager            PyTorch as it is written
  compiled         torch.compile of forward and loss (their backward is compiled with them)
  reduce-overhead  the same in that mode, which replays CUDA graphs
  captured         the whole eager step captured by hand as one torch.cuda.CUDAGraph

As a worker (--serve) it says one line of JSON about its first step, then answers each line `N` on standard input
with the times of N steps. In between it sleeps in a read, and the device is free for others.
"""

import argparse
import json
import sys
import time

import torch
import torch.nn.functional as F

from torch_resnet import MODELS

MODES = ["eager", "compiled", "reduce-overhead", "captured"]
AUTOCAST = {"bf16": torch.bfloat16, "f16": torch.float16}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", choices=sorted(MODELS))
    parser.add_argument("--mode", default="eager", choices=MODES)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", default="f32", choices=["f32", "tf32", "bf16", "f16"],
                        help="tf32: f32 with TensorFloat-32 allowed; bf16, f16: autocast")
    parser.add_argument("--steps", type=int, default=50, help="steps to time when not serving")
    parser.add_argument("--settle", type=int, default=5, help="untimed steps before each timed block")
    parser.add_argument("--serve", action="store_true", help="read the counts from standard input")
    return parser.parse_args()


def set_precision(precision):
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


class Training:
    """A model, its batch and its optimizer; `step()` is what is timed."""

    def __init__(self, options):
        torch.manual_seed(0)
        self.model = MODELS[options.model](10).to("cuda", memory_format=torch.channels_last).train()
        images = torch.randn(options.batch, 3, 32, 32, device="cuda")
        self.images = images.to(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (options.batch,), device="cuda")
        self.autocast = torch.autocast("cuda", AUTOCAST.get(options.precision, torch.bfloat16),
                                       enabled=options.precision in AUTOCAST)
        self.sgd = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
        if options.mode == "compiled":
            self.forward = torch.compile(self.forward)
        elif options.mode == "reduce-overhead":
            self.forward = torch.compile(self.forward, mode="reduce-overhead")

    def forward(self):
        with self.autocast:
            return F.cross_entropy(self.model(self.images), self.labels)

    def step(self):
        self.sgd.zero_grad(set_to_none=True)
        self.forward().backward()
        self.sgd.step()

    def capture(self, warm_up=5):
        """From now on a step is the replay of one graph, whose gradients lie in its own memory."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warm_up):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.step = graph.replay


def step_ms(training):
    start = time.perf_counter()
    training.step()
    torch.cuda.synchronize()
    return round((time.perf_counter() - start) * 1e3, 4)


def timed_block(training, steps, settle):
    for _ in range(settle):
        training.step()
    torch.cuda.synchronize()
    return [step_ms(training) for _ in range(steps)]


def say(**answer):
    print(json.dumps(answer), flush=True)


def main(options):
    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU")
    set_precision(options.precision)
    training = Training(options)
    first = step_ms(training)
    if options.mode == "captured":
        training.capture()
    timed_block(training, 1, options.settle)  # the compilers' second look, their graphs, cuDNN's choices
    say(mode=options.mode, first_step_ms=first, torch=torch.__version__, cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(), device=torch.cuda.get_device_name(),
        peak_bytes=torch.cuda.max_memory_allocated())

    if not options.serve:
        say(step_ms=timed_block(training, options.steps, options.settle))
        return
    for line in sys.stdin:
        say(step_ms=timed_block(training, int(line), options.settle))


if __name__ == "__main__":
    main(arguments())
