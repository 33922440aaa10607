#!/usr/bin/env python3
"""What resnet_cifar does in a folder that is in use, broken or full, and when it is run again."""
import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path


def check(holds, what):
    if not holds:
        sys.exit(f"run folder: {what}")


class Programs:
    def __init__(self, build, folder):
        self.resnet_cifar, self.explain_plan = build / "examples/resnet_cifar", build / "examples/explain_plan"
        self.out = folder / "run"

    def command(self, *options):
        return [self.resnet_cifar, "--data", "synthetic", "--out", self.out, "--depth", "8", "--batch", "2",
                "--epochs", "1", "--limit-train", "8", "--limit-test", "2", "--threads", "1", *options]

    def run(self, *options, **kwargs):
        return subprocess.run(self.command(*options), capture_output="stdout" not in kwargs, text=True, **kwargs)


def two_runs(programs):
    first = subprocess.Popen(programs.command(), stdout=subprocess.PIPE, text=True)
    first.stdout.readline()  # it has begun
    os.kill(first.pid, signal.SIGSTOP)
    second = programs.run("--resume") if (programs.out / "last.safetensors").exists() else programs.run()
    os.kill(first.pid, signal.SIGCONT)
    check(first.wait() == 0, "a run that was disturbed did not end well")
    who = rf"run: another run does: process {first.pid} on \S+, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    check(second.returncode == 1 and re.search(who, second.stderr), f"two runs in one folder: {second.stderr}")
    check((programs.out / "metrics.jsonl").read_text().count("\n") == 1, "two runs mixed their metrics")


def full_disk(programs):
    full = programs.run("--log-steps", "/dev/full")
    check(full.returncode == 1 and "/dev/full: No space left on device" in full.stderr,
          f"losses that were not written: {full.stderr}")
    for program in (programs.command(), [programs.explain_plan, "--model", "bn_add_relu", "--batch", "1"]):
        with open("/dev/full", "w", encoding="utf-8") as output:
            result = subprocess.run(program, stdout=output, stderr=subprocess.PIPE, text=True)
        check(result.returncode == 1 and "cannot write all of its output" in result.stderr,
              f"output that was not written: {result.stderr}")


def steps_that_go_on(programs):
    log = programs.out.parent / "losses"
    programs.run("--log-steps", log)
    whole = log.read_text()
    programs.run("--log-steps", log, "--steps", "2")
    half = log.read_text()
    check(half.count("\n") == 2 and whole.startswith(half), "the same run has other losses")
    log.write_text(half + "3 0x1p+0\n4 0x")  # a step that is trained again, and a line that a kill cut off
    check(programs.run("--log-steps", log, "--resume").returncode == 0, "a run with a log did not go on")
    check(log.read_text() == whole, "the log of a resumed run is not that of an unbroken one")
    log.write_text("not a log\n")
    refused = programs.run("--log-steps", log, "--resume")
    check(refused.returncode == 1 and f"{log}: line 1: expected a step and its loss" in refused.stderr,
          f"a file that is no log: {refused.stderr}")
    check(log.read_text() == "not a log\n", "a file that is no log was overwritten")


def broken_metrics(programs):
    metrics = programs.out / "metrics.jsonl"
    good = '{"epoch": 0}\n'
    for text, reason in ((good + '{"epoch": "one"}\n', "line 2: "), (good + "not json\n", "line 2: "), ("{}\n", "line 1: ")):
        metrics.write_text(text)
        result = programs.run("--resume")
        check(result.returncode == 1 and f"cannot go on with {metrics}: {reason}" in result.stderr,
              f"broken metrics: {result.stderr}")
        check(metrics.read_text() == text, "broken metrics were changed")
    metrics.write_text(good + '{"epoch": 0')
    check(programs.run("--resume").returncode == 0 and metrics.read_text() == good, "an unfinished line was not cut off")
    metrics.unlink()
    metrics.mkdir()
    result = programs.run("--resume")
    check(result.returncode == 1 and f"cannot read {metrics}: Is a directory" in result.stderr,
          f"metrics that cannot be read: {result.stderr}")
    metrics.rmdir()


def what_kills_left(programs):
    names = [f"{file}.tmp.{'0' * 15}{digit}" for file in ("last.safetensors", "best.safetensors", "metrics.jsonl")
             for digit in "0f"]
    for name in names:
        (programs.out / name).write_text("half a")
    check(programs.run("--resume").returncode == 0, "a run with abandoned files did not go on")
    left = [name for name in names if (programs.out / name).exists()]
    check(not left, f"a start left {left}")


def one_command_twice(programs):
    cache, log, ended = programs.out.parent / "cache", programs.out.parent / "losses", []
    tuned = {**os.environ, "XDG_CACHE_HOME": str(cache), "FUSETAPE_TUNE": "on"}
    for _ in range(3):  # the first one tunes
        check(programs.run("--log-steps", log, env=tuned).returncode == 0, "a run that tunes did not end well")
        (tuning,) = cache.glob("fusetape/tuning-*.json")
        ended.append((tuning.read_bytes(), log.read_bytes(), (programs.out / "last.safetensors").read_bytes()))
    for what, second, third in zip(("a tuning file", "losses", "a checkpoint"), ended[1], ended[2]):
        check(second == third, f"the same command twice, with one complete tuning file, made another of {what}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, required=True)
    os.environ["FUSETAPE_TUNE"] = "off"  # the same losses each time
    build = parser.parse_args().build.resolve()
    with tempfile.TemporaryDirectory(prefix="fusetape_run_folder.") as folder:
        programs = Programs(build, Path(folder).resolve())
        for each in (two_runs, full_disk, steps_that_go_on, broken_metrics, what_kills_left, one_command_twice):
            each(programs)
    print("run folder: all is well")


if __name__ == "__main__":
    main()
