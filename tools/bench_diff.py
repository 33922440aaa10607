"""How long a training step takes with another revision's library, beside this checkout's: `make bench-diff
BASE=revision`.

    python3 tools/bench_diff.py BASE [--models resnet20] [--precisions f32 bf16] [--batch 128] [--threads 2] [--pairs 30]

benchmarks/step_times.cpp of this checkout is built against both installed libraries. Three processes stay ready: this
checkout's, BASE's, and BASE's once more as the control. Each round takes a step of each, in a random order. What is
told of the pairs, and how, is as in compare_fusion: the median of the ratios with the bootstrap's 95 % interval.
Tuning is off, so that a difference is one of the code; with --tune each process times its own kernels first.
"""

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import base_revision


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a revision of this repository")
    parser.add_argument("--models", nargs="+", default=["resnet20"])
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16"])
    parser.add_argument("--batch", default="128")
    parser.add_argument("--threads", help="default: all cores")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--tune", action="store_true")
    return parser.parse_args()


def build_program(folder, to):
    """step_times, against the library of the sources in `folder`."""
    base_revision.build(folder, "fusetape")
    base_revision.run("cmake", "--install", folder / base_revision.BUILD, "--prefix", to / "prefix")
    base_revision.run("cmake", "-S", base_revision.ROOT / "benchmarks" / "against", "-B", to / "build", "-G", "Ninja",
                      "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_PREFIX_PATH={to / 'prefix'}",
                      *base_revision.compiler_options())
    base_revision.run("cmake", "--build", to / "build")
    return to / "build" / "step_times"


class Side:
    """A process that takes steps when asked."""

    def __init__(self, program, options, tune, cache):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FUSETAPE_")}
        environment |= {"OMP_WAIT_POLICY": "passive", "FUSETAPE_TUNE": "on" if tune else "off",
                        "XDG_CACHE_HOME": str(cache)}
        self.process = subprocess.Popen([program, *options], env=environment, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.ms = []
        self.answer()  # ready

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[0]} ended")
        return line

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.ms.append(float(self.answer()))

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def ratio(program, slow, fast):
    """In words."""
    pairs = "".join(f"{a} {b}\n" for a, b in zip(slow, fast))
    done = subprocess.run([program, "--ratios"], input=pairs, text=True, capture_output=True, check=True)
    median, low, high = map(float, done.stdout.split())
    return f"{median:.3f}x [{low:.3f}, {high:.3f}]"


def compare(programs, model, precision, options):
    what = ["--model", model, "--precision", precision, "--batch", options.batch]
    if options.threads:
        what += ["--threads", options.threads]
    with contextlib.ExitStack() as stack:
        sides = []
        for program in (programs["here"], programs["base"], programs["base"]):
            cache = stack.enter_context(tempfile.TemporaryDirectory())
            sides.append(Side(program, what, options.tune, cache))
            stack.callback(sides[-1].stop)
        order = random.Random(1)
        for _ in range(options.pairs):
            for side in order.sample(sides, len(sides)):
                side.step()
    here, base, control = (side.ms for side in sides)
    print(f"{model} {precision}, batch {options.batch}, {options.threads or 'all'} threads, {options.pairs} rounds: "
          f"BASE {statistics.median(base):.2f} ms, here {statistics.median(here):.2f} ms\n"
          f"  BASE's time over ours: {ratio(programs['here'], base, here)}\n"
          f"  BASE's over BASE's (control): {ratio(programs['here'], base, control)}", flush=True)


def main():
    options = arguments()
    with base_revision.checked_out(options.base) as base_folder, tempfile.TemporaryDirectory() as scratch:
        programs = {name: build_program(folder, Path(scratch) / name)
                    for name, folder in (("here", base_revision.ROOT), ("base", base_folder))}
        for model in options.models:
            for precision in options.precisions:
                compare(programs, model, precision, options)


if __name__ == "__main__":
    main()
