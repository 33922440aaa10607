"""Times training steps on a GPU, ours in several ways or beside PyTorch's, alternating in the same minutes.

    python benchmarks/gpu_compare.py --kind fusion --model resnet20 --precision bf16 --json runs/gpu.json
    python benchmarks/gpu_compare.py --kind pytorch --model resnet20 --precision bf16 --json runs/gpu.json
    python benchmarks/gpu_compare.py --kind accuracy --data FOLDER --precision bf16 --json runs/gpu.json

  fusion    compare_fusion with whole steps as graphs, and with FUSETAPE_CAPTURE=off ("op by op")
  pytorch   compare_fusion, and PyTorch in every mode of gpu_pytorch.py
  accuracy  resnet_cifar for ten epochs from three seeds

Each round runs a block of steps of each, in an order that rotates. Ratios are taken within a round; a row says
their median, least and greatest. One row for each batch, written when it is done. What fails is noted in its row,
and the others go on. tf32 is f32 with TensorFloat-32 allowed (FUSETAPE_TF32=1).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import gpu_results
from vs_pytorch import found_pytorch, ratio

HERE = Path(__file__).resolve().parent
MODES = ["eager", "compiled", "reduce-overhead", "captured"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", required=True, choices=["fusion", "pytorch", "accuracy"])
    parser.add_argument("--json", type=Path, required=True, help="the file that rows are added to")
    parser.add_argument("--programs", type=Path, default=HERE.parent / "build/cuda/examples")
    parser.add_argument("--model", default="resnet20", choices=["resnet20", "resnet18"])
    parser.add_argument("--precision", default="bf16", choices=["f32", "tf32", "bf16", "f16"])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="timed steps in a block")
    parser.add_argument("--python", help="a Python that has PyTorch; default: as vs_pytorch.py finds one")
    parser.add_argument("--missing", action="store_true", help="only rows that the file does not have, or with failures")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10's binary files")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    return parser.parse_args()


class Failed(Exception):
    """What ran did not end as it should; says why."""


def last_words(text):
    return " ".join(text.strip().splitlines()[-3:])[-400:] or "it said nothing"


def environment(precision, **more):
    return os.environ | {"FUSETAPE_TF32": "1" if precision == "tf32" else "0"} | more


def run(command, env):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env)
    if done.returncode != 0:
        raise Failed(last_words(done.stderr or done.stdout))


# ---- what runs: each has a name, `about`, and `block(steps) -> {series: [ms, ...]}`


class Fusetape:
    """compare_fusion, started for every block; it alternates fused and unfused steps itself."""

    def __init__(self, name, options, batch, folder, **settings):
        self.name, self.about, self.replay = name, {}, {}
        self.suffix = "" if name == "graphs" else f" {name}"
        self.json = Path(folder) / f"{name}.json"
        self.command = [options.programs / "compare_fusion", "--device", "cuda", "--model", options.model,
                        "--batch", batch, "--precision", options.precision.removeprefix("t"), "--json", self.json]
        self.environment = environment(options.precision, **settings)

    def block(self, steps):
        run([*self.command, "--steps", steps], self.environment)
        self.about = json.loads(self.json.read_text())
        sides = {f"{side}{self.suffix}": self.about[side] for side in ("fused", "unfused")}
        self.replay = {series: side.get("replay", "") for series, side in sides.items()}
        return {series: side["step_ms"]["samples"] for series, side in sides.items()}

    def close(self):
        pass


class PyTorch:
    """A worker process, asleep between its blocks."""

    replay = {}

    def __init__(self, mode, options, batch, folder):
        self.name = mode
        command = [options.python, HERE / "gpu_pytorch.py", "--serve", "--mode", mode, "--model", options.model,
                   "--batch", batch, "--precision", options.precision]
        self.complaints = tempfile.TemporaryFile("w+")  # a file: a pipe nobody reads would fill
        # Nothing compiled before is found, so the first step is what a first step costs.
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.complaints, text=True,
                                        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder)})
        self.about = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.complaints.seek(0)
            raise Failed(last_words(self.complaints.read()))
        return json.loads(line)

    def block(self, steps):
        try:
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer, or what it left on stderr, says more
        return {self.name: self.answer()["step_ms"]}

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()


def makers(options, batch, folder):
    """By name, what starts each of them."""
    ours = {"graphs": lambda: Fusetape("graphs", options, batch, folder, FUSETAPE_CAPTURE="on")}
    if options.kind == "fusion":
        return ours | {"op by op": lambda: Fusetape("op by op", options, batch, folder, FUSETAPE_CAPTURE="off")}
    return ours | {mode: lambda mode=mode: PyTorch(mode, options, batch, folder) for mode in MODES}


def started(options, batch, folder, failed):
    runners = []
    for name, make in makers(options, batch, folder).items():
        try:
            runners.append(make())
        except Failed as why:
            failed[name] = str(why)
    return runners


# ---- a row


def one_round(runners, steps, turn, failed):
    samples = {}
    for i in range(len(runners)):
        runner = runners[(i + turn) % len(runners)]
        if runner.name in failed:
            continue
        try:
            samples |= runner.block(steps)
        except Failed as why:
            failed[runner.name] = str(why)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return {"median_ms": medians, "samples_ms": samples}


def pairs_of(kind):
    """Ratios that a row says, as numerator and denominator."""
    ratios = gpu_results.FUSION_RATIOS if kind == "fusion" else gpu_results.PYTORCH_RATIOS
    return [pair.split("/") for pair in ratios]


def row_of(options, batch, runners, rounds, failed):
    """Of what ran in every round."""
    series = [name for name in rounds[0]["median_ms"] if all(name in r["median_ms"] for r in rounds)]
    replay = {}
    for runner in runners:
        replay |= runner.replay
    return {
        "kind": options.kind, "model": options.model, "batch": batch, "precision": options.precision,
        "median_ms": {name: statistics.median(r["median_ms"][name] for r in rounds) for name in series},
        "ratios": {f"{a}/{b}": ratio(rounds, a, b) for a, b in pairs_of(options.kind)
                   if a in series and b in series},
        "replay": replay, "failed": failed,
        "about": {runner.name: runner.about for runner in runners}, "rounds": rounds,
    }


def say(row):
    times = "  ".join(f"{name} {ms:.3f}" for name, ms in row["median_ms"].items())
    print(f"{row['model']}, batch {row['batch']}, {row['precision']}, ms: {times}", flush=True)
    for name, why in row["failed"].items():
        print(f"  {name} failed: {why}", flush=True)


def note_pytorch(path, runners):
    """Its versions belong to the machine's."""
    for runner in runners:
        if isinstance(runner, PyTorch):
            about = runner.about
            results = gpu_results.load(path)
            results["machine"]["torch"] = f"{about['torch']} with CUDA {about['cuda']}, cuDNN {about['cudnn']}"
            return gpu_results.save(path, results)


def measure(options, batch):
    failed = {}
    with tempfile.TemporaryDirectory() as folder:
        runners = started(options, batch, folder, failed)
        try:
            rounds = [one_round(runners, options.steps, turn, failed) for turn in range(options.rounds)]
        finally:
            for runner in runners:
                runner.close()
    note_pytorch(options.json, runners)
    return row_of(options, batch, runners, rounds, failed)


def train(options, seed):
    """Ten epochs of ResNet-20, and what the last line of its record says."""
    with tempfile.TemporaryDirectory() as folder:
        run([options.programs / "resnet_cifar", "--device", "cuda", "--data", options.data, "--depth", 20,
             "--epochs", options.epochs, "--batch", 128, "--lr", 0.4, "--precision",
             options.precision.removeprefix("t"), "--seed", seed, "--out", folder],
            environment(options.precision))
        epochs = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return {"kind": "accuracy", "model": "resnet20", "batch": 128, "precision": options.precision, "seed": seed,
            "test_accuracy": epochs[-1]["test_accuracy"], "epochs": epochs}


def is_there(options, **subject):
    wanted = gpu_results.key_of({"kind": options.kind, "model": options.model, "precision": options.precision,
                                 **subject})
    return any(gpu_results.key_of(row) == wanted and not row.get("failed")
               for row in gpu_results.load(options.json)["rows"])


def train_all(options):
    """How many runs failed."""
    failures = 0
    for seed in options.seeds:
        if options.missing and is_there(options, batch=128, seed=seed):
            continue
        try:
            row = train(options, seed)
        except Failed as why:
            print(f"seed {seed} failed: {why}", flush=True)
            failures += 1
            continue
        gpu_results.add_row(options.json, row)
        print(f"{options.precision}, seed {seed}: test accuracy {row['test_accuracy']:.4f}", flush=True)
    return failures


def measure_all(options):
    """How many of what should have run failed."""
    failures = 0
    for batch in options.batches:
        if options.missing and is_there(options, batch=batch):
            continue
        row = measure(options, batch)
        gpu_results.add_row(options.json, row)
        say(row)
        failures += len(row["failed"])
    return failures


def main(options):
    if options.kind == "pytorch" and not options.python:
        options.python = found_pytorch()
        if options.python is None:
            sys.exit("no PyTorch here: pass --python, or run benchmarks/vs_pytorch.py --setup once")
    failures = train_all(options) if options.kind == "accuracy" else measure_all(options)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main(arguments())
