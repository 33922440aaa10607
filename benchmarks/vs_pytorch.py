"""Times fusetape's training step beside PyTorch's, alternating in the same minutes.

    python benchmarks/vs_pytorch.py --setup                      once: a virtual environment with PyTorch
    python benchmarks/vs_pytorch.py --model resnet20 --batch 128 --threads 2 --json result.json
    python benchmarks/vs_pytorch.py --conv direct automatic      the README's table: where the speed comes from

Each round runs a block of steps of PyTorch eager, of fusetape (compare_fusion: fused and unfused; once for each --conv)
and of PyTorch compiled, in an order that rotates. Ratios are taken within a round and then their median, so that a machine that
slows down for a while does not favour one side. Where Linux tells, a round in which other processes took more
than --noise of the machine is done again, and an idle PyTorch that does not sleep is reported.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytorch_step

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
VENV = CACHE / "fusetape" / "torch-venv"
TICKS = os.sysconf("SC_CLK_TCK")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=HERE.parent / "build/release/examples/compare_fusion")
    parser.add_argument("--model", default="resnet20", choices=pytorch_step.MODEL_NAMES)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10, help="timed steps in a block")
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], choices=["eager", "compiled", "whole"],
                        help="how PyTorch runs; see pytorch_step.py")
    parser.add_argument("--conv", nargs="+", default=["automatic"], choices=["direct", "automatic"],
                        help="our convolutions, as FUSETAPE_CONV says; both: print the README's table, too")
    parser.add_argument("--isa", choices=["avx2"], help="what both sides may use of the CPU; all of it if not given")
    parser.add_argument("--heap", default="kept", choices=["kept", "system"], help="of PyTorch; see pytorch_step.py")
    parser.add_argument("--noise", type=float, default=0.05, help="share of the machine that others may use in a round")
    parser.add_argument("--json", type=Path, help="write everything measured")
    parser.add_argument("--python", help="a Python that has PyTorch; default: this one, else the one of --setup")
    parser.add_argument("--pytorch-only", action="store_true", help="leave fusetape out")
    parser.add_argument("--setup", action="store_true", help="install PyTorch (several GB) where it is found later")
    return parser.parse_args()


def set_up():
    print(f"installing PyTorch into {VENV}")
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    subprocess.run([VENV / "bin/python", "-m", "pip", "install", "--quiet", "torch", "numpy"], check=True)


def found_pytorch():
    """A Python that has PyTorch: this one, or that of --setup."""
    if importlib.util.find_spec("torch"):
        return sys.executable
    return str(VENV / "bin/python") if (VENV / "bin/python").exists() else None


def python_with_torch(options):
    return options.python or found_pytorch() or sys.exit("no PyTorch here: pass --python, or run once with --setup")


def limited(isa):
    """The environment in which fusetape, ATen, oneDNN and Inductor stay below AVX-512."""
    if isa is None:
        return {}
    return {"FUSETAPE_ISA": isa, "ATEN_CPU_CAPABILITY": isa, "ONEDNN_MAX_CPU_ISA": isa.upper()}


# ---- what runs: each has a name, `block(steps) -> {series: [ms, ...]}` and `cpu_seconds()` spent so far


class PyTorch:
    """A worker process, asleep between its blocks."""

    def __init__(self, mode, options, compile_cache):
        self.name = mode
        command = [python_with_torch(options), HERE / "pytorch_step.py", "--serve", "--mode", mode,
                   "--model", options.model, "--batch", str(options.batch), "--threads", str(options.threads),
                   "--precision", options.precision, "--heap", options.heap]
        # Nothing compiled before is found, so the first step is what a first step costs.
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": compile_cache} | limited(options.isa)
        self.complaints = tempfile.TemporaryFile("w+")  # a file: a pipe nobody reads would fill
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.complaints, text=True, env=environment)
        self.about = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.complaints.seek(0)
            sys.exit(f"PyTorch {self.name} failed:\n{self.complaints.read()}")
        return json.loads(line)

    def block(self, steps):
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return {self.name: self.answer()["step_ms"]}

    def cpu_seconds(self):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / TICKS
        return 0.0

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def children_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Fusetape:
    """compare_fusion, started for every block; it alternates fused and unfused steps itself.

    Its tuning file is its own: the first step finds none, as PyTorch's finds nothing compiled. What the tuner has
    no time for in the first plans it does in the next ones, so a few steps go before all rounds."""

    def __init__(self, options, folder, conv):
        self.name = f"fusetape {conv}"
        self.series = {side: side + (" direct" if conv == "direct" else "") for side in ("fused", "unfused")}
        folder = Path(folder) / conv
        folder.mkdir()
        self.json = folder / "fusetape.json"
        self.command = [options.binary, "--model", options.model, "--batch", str(options.batch), "--precision",
                        options.precision, "--threads", str(options.threads), "--json", self.json]
        self.environment = os.environ | {"XDG_CACHE_HOME": str(folder), "FUSETAPE_CONV": conv} | limited(options.isa)
        self.about = {}
        self.spent = 0.0
        self.block(1)
        self.cold_ms = self.about["fused"]["first_step_ms"]
        self.block(1)

    def block(self, steps):
        before = children_seconds()
        done = subprocess.run([*self.command, "--steps", str(steps)], capture_output=True, text=True,
                              env=self.environment)
        self.spent += children_seconds() - before
        if done.returncode != 0:
            sys.exit(f"{self.command[0]} failed:\n{done.stdout}{done.stderr}")
        self.about = json.loads(self.json.read_text())
        return {name: self.about[side]["step_ms"]["samples"] for side, name in self.series.items()}

    def cpu_seconds(self):
        return self.spent

    def close(self):
        pass


# ---- how quiet the machine is


def machine_cpu_seconds():
    """Time that all processors spent on anything, stolen time included; None where unknown."""
    with contextlib.suppress(OSError):
        total = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        user, nice, system, _, _, irq, softirq, steal = map(int, total[:8])
        return (user + nice + system + irq + softirq + steal) / TICKS
    return None


def measured_block(runner, runners, steps):
    """One block, what others used of the machine meanwhile, and what our sleeping workers did."""
    machine, own = machine_cpu_seconds(), {r.name: r.cpu_seconds() for r in runners}
    start = time.perf_counter()
    series = runner.block(steps)
    wall = time.perf_counter() - start
    used = {r.name: r.cpu_seconds() - own[r.name] for r in runners}
    others = 0.0
    if machine is not None:
        others = max(0.0, machine_cpu_seconds() - machine - sum(used.values())) / (wall * os.cpu_count())
    awake = sum(seconds for name, seconds in used.items() if name != runner.name) / wall
    return series, others, awake


def wait_for_quiet(noise, patience_s=60):
    """Beside a compiler, OpenMP's spinning threads make a step ten times slower: no use in measuring that."""
    for _ in range(patience_s):
        before = machine_cpu_seconds()
        if before is None:
            return
        time.sleep(1)
        if (machine_cpu_seconds() - before) / os.cpu_count() <= noise:
            return


def one_round(runners, steps, turn):
    samples, others, awake = {}, 0.0, 0.0
    for i in range(len(runners)):
        runner = runners[(i + turn) % len(runners)]
        series, noise, unrest = measured_block(runner, runners, steps)
        samples |= series
        others, awake = max(others, noise), max(awake, unrest)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return {"median_ms": medians, "others": round(others, 3), "awake": round(awake, 3), "samples_ms": samples}


def all_rounds(runners, options):
    """As many quiet rounds as asked for; after twice as many tries more, whatever there is."""
    rounds = []
    for turn in range(3 * options.rounds):
        wait_for_quiet(options.noise)
        rounds.append(one_round(runners, options.steps, turn))
        done = rounds[-1]
        times = "  ".join(f"{name} {ms:.1f}" for name, ms in sorted(done["median_ms"].items()))
        noisy = f"   noisy: others used {done['others']:.0%}" if done["others"] > options.noise else ""
        print(f"round {turn + 1}: {times}{noisy}", flush=True)
        quiet = [r for r in rounds if r["others"] <= options.noise]
        if len(quiet) == options.rounds:
            return quiet
    print(f"only {len(quiet)} quiet rounds; all are used, and the numbers are noisy")
    return rounds


# ---- what it says


def ratio(rounds, ours, theirs):
    values = [r["median_ms"][ours] / r["median_ms"][theirs] for r in rounds]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(rounds, runners, options):
    names = sorted(rounds[0]["median_ms"])
    median = {name: statistics.median(r["median_ms"][name] for r in rounds) for name in names}
    torch = {r.name: r.about for r in runners if isinstance(r, PyTorch)}
    best = min(torch, key=median.get)
    result = {
        "model": options.model, "batch": options.batch, "threads": options.threads,
        "precision": options.precision, "heap": options.heap,
        "torch": next(iter(torch.values()))["torch"],
        "median_ms": median,
        "first_step_ms": {name: about["first_step_ms"] for name, about in torch.items()},
        "kept_bytes": {name: about["kept_bytes"] for name, about in torch.items()},
        "resident_bytes": {name: about["resident_bytes"] for name, about in torch.items()},
        "best_pytorch": best, "ratios": {},
        "rounds": rounds,
    }
    pairs = [("unfused", "eager"), ("fused", best), ("fused", "unfused")] + [("fused", name) for name in torch]
    pairs += [(name, best) for name in names if name not in torch]
    result["ratios"] = {f"{a}/{b}": ratio(rounds, a, b) for a, b in pairs if a in median and b in median}
    if "fused" in median:
        ours = next(r for r in runners if r.name == "fusetape automatic")
        result["fusetape"] = ours.about
        for quantity in ("kept_bytes", "resident_bytes"):
            result[quantity] |= {name: ours.about[name].get(quantity) for name in ("fused", "unfused")}
        result["first_step_ms"]["fused"] = ours.cold_ms
        result["warm_first_step_ms"] = ours.about["fused"]["first_step_ms"]
    return result


def show(result):
    print(f"\n{result['model']}, batch {result['batch']}, {result['precision']}, {result['threads']} threads, PyTorch {result['torch']}")
    print(f"{'':16}{'step, ms':>12}{'first, ms':>12}{'kept, MB':>12}{'grew, MB':>12}")
    for name, ms in sorted(result["median_ms"].items(), key=lambda item: -item[1]):
        first, kept = result["first_step_ms"].get(name), result["kept_bytes"].get(name)
        grew = result["resident_bytes"].get(name)
        print(f"{name:16}{ms:12.1f}{f'{first:.0f}' if first else '':>12}"
              + "".join(f"{f'{size / 1e6:.1f}' if size else '':>12}" for size in (kept, grew)))
    if "warm_first_step_ms" in result:
        print(f"fused, the first step with the tuning file: {result['warm_first_step_ms']:.0f} ms")
    for pair, value in result["ratios"].items():
        best = "   (the best of PyTorch)" if pair == f"fused/{result['best_pytorch']}" else ""
        print(f"{pair:24} {value['median']:.3f}   {value['min']:.3f} to {value['max']:.3f}{best}")
    awake = max(r["awake"] for r in result["rounds"])
    if awake > 0.02:
        print(f"a sleeping PyTorch used {awake:.0%} of a processor while another ran")


def show_sources(result):
    """The README's table."""
    best = result["best_pytorch"]
    names = {best: f"PyTorch {result['torch']}, {best}, its heap kept", "unfused direct": "unfused, direct convolutions",
             "fused direct": "fused, direct convolutions", "unfused": "unfused, Winograd", "fused": "fused, Winograd"}
    print("\n| a training step | ms | of PyTorch's time |\n|---|---|---|")
    for name, label in names.items():
        cells = [label, f"{result['median_ms'][name]:.1f}", "1"]
        if name != best:
            value = result["ratios"][f"{name}/{best}"]
            cells[2] = f"{value['median']:.2f} ({value['min']:.2f} to {value['max']:.2f})"
        print("| " + " | ".join(cells) + " |")


def main(options):
    if options.setup:
        return set_up()
    if not options.pytorch_only and not options.binary.exists():
        sys.exit(f"{options.binary} is not there: build it, name it with --binary, or pass --pytorch-only")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        runners = []
        for mode in options.modes:
            runners.append(PyTorch(mode, options, folder))
            print(f"PyTorch {mode}: first step {runners[-1].about['first_step_ms']:.0f} ms", flush=True)
        if not options.pytorch_only:
            runners[1:1] = [Fusetape(options, folder, conv) for conv in dict.fromkeys(options.conv)]
        result = summary(all_rounds(runners, options), runners, options)
        for runner in runners:
            runner.close()
    show(result)
    if not options.pytorch_only and len(set(options.conv)) == 2:
        show_sources(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(arguments())
