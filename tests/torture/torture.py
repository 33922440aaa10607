#!/usr/bin/env python3
"""Kills and disk faults: nothing that a program saved may be lost, nothing that it left may stay in the way.

torture.py faults --build build/release                   every file call of a save goes wrong, in every way
torture.py kills --build build/release --kills 500        a training run is killed and resumed again and again

Each program runs as process 1 of a process namespace of its own, where this machine allows one: numbers repeat,
as in a container that is restarted.
"""
import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEMPORARY = re.compile(r"\.tmp\.")
REASONS = {"ENOSPC": "No space left on device", "EIO": "Input/output error", "EACCES": "Permission denied"}


def check(holds, what):
    if not holds:
        sys.exit(f"torture: {what}")


def namespace():
    """The command that makes one, or nothing."""
    for command in (["unshare", "--pid", "--fork", "--mount-proc"],
                    ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]):
        try:
            if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
                return command
        except FileNotFoundError:
            break
    print("torture: no process namespace here: process numbers will not repeat")
    return []


def left_behind(folder):
    return [str(path) for path in folder.rglob("*") if TEMPORARY.search(path.name)]


class Faults:
    """Programs one of whose calls on files in `folder` goes wrong."""

    def __init__(self, build, folder, inside):
        self.inside, self.folder = inside, folder
        self.shim, self.count_file = build / "tests/libdisk_faults.so", folder.parent / "count"

    def command(self, program, *arguments, fault="", at=0):
        return [*self.inside, "env", f"LD_PRELOAD={self.shim}", f"FAULT_FOLDER={self.folder}", f"FAULT={fault}",
                f"FAULT_AT={at}", f"FAULT_COUNT={self.count_file}", program, *arguments]

    def calls(self):
        return int(self.count_file.read_text())


# ---- every call of a save -----------------------------------------------------------------------------------

def faults_of(kind, build, scratch, inside):
    folder = scratch / kind
    folder.mkdir()
    target = folder / "target"
    faults = Faults(build, folder, inside)

    def save(number, **fault):
        return subprocess.run(faults.command(build / "tests/save_once", kind, target, str(number), **fault),
                              capture_output=True, text=True)

    def contents():
        text = target.read_bytes()
        return json.loads(text)["convolutions"] if kind == "tuning" else text

    check(save(1).returncode == 0, f"{kind}: a save without faults failed")
    old = contents()
    check(save(2).returncode == 0, f"{kind}: a second save failed")
    new, calls = contents(), faults.calls()
    check(calls >= 5, f"{kind}: the shim saw {calls} calls only")
    tried = 0
    for fault in ("ENOSPC", "EIO", "EACCES", "short", "kill"):
        for at in range(1, calls + 1):
            where = f"{kind}: {fault} at call {at} of {calls}"
            for path in folder.iterdir():
                path.unlink()
            save(1)
            result = save(2, fault=fault, at=at)
            tried += 1
            if fault == "kill":
                check(result.returncode != 0, f"{where}: it lived")
                check(contents() in (old, new), f"{where}: neither the old contents nor the new")
                check(save(2).returncode == 0, f"{where}: the next save failed")
            elif result.returncode == 0:
                check(contents() == new, f"{where}: it succeeded and saved nothing")
            else:
                check(str(target) in result.stderr and REASONS[fault] in result.stderr,
                      f"{where}: no error with name and reason: {result.stderr}")
                check(contents() == (new if "is replaced, but" in result.stderr else old),
                      f"{where}: the old contents are gone")
            check(not left_behind(folder), f"{where}: left behind: {left_behind(folder)}")
    print(f"{kind}: {tried} saves with a fault, at each of {calls} calls: whole files, named errors, nothing left")


# ---- a training run that is killed --------------------------------------------------------------------------

def tensors_of(checkpoint):
    """Everything but the metadata, which holds seconds."""
    data = checkpoint.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__")
    return header, data[8 + length:]


class Training:
    """A tiny run in a folder; its tuning cache stands beside it, and changes between its lives as if others had
    tuned: a cold one is gone, a warm one has forgotten some of its verdicts in favour of the built-in order."""

    def __init__(self, build, scratch, inside, cold, epochs, chance):
        self.scratch, self.inside, self.cold, self.epochs, self.chance = scratch, inside, cold, epochs, chance
        self.verdicts = {}
        self.program = build / "examples/resnet_cifar"
        self.out, self.log, self.cache = scratch / "run", scratch / "losses", scratch / "cache"
        self.faults = Faults(build, self.out, inside)

    def start(self, kill_at=0):
        if self.cold:
            shutil.rmtree(self.cache, ignore_errors=True)
        for file in self.cache.rglob("tuning-*.json"):
            self.change(file)
        self.out.mkdir(parents=True, exist_ok=True)
        options = ["--data", "synthetic", "--out", self.out, "--model", "resnet9", "--width", "16", "--batch", "16",
                   "--limit-train", "160", "--limit-test", "16", "--epochs", str(self.epochs), "--save-every", "1",
                   "--threads", "1", "--lr", "0.05", "--log-steps", self.log]
        if (self.out / "last.safetensors").exists():
            options.append("--resume")
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.cache), "FUSETAPE_TUNE": "on",
                       "OMP_WAIT_POLICY": "passive"}
        return subprocess.Popen(self.faults.command(self.program, *options, fault="kill", at=kill_at),
                                env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def change(self, file):
        tunings = json.loads(file.read_text())
        for entry in tunings["convolutions"]:
            verdict = self.verdicts.setdefault(entry["convolution"], entry["kernel"])
            entry["kernel"] = self.chance.choice(["", verdict])
        file.write_text(json.dumps(tunings))

    def losses(self):
        return dict(line.split() for line in self.log.read_text().splitlines())


def kill(process, inside):
    """The program itself; what made its namespace ends with it."""
    victim = process.pid
    if inside:
        children = Path(f"/proc/{victim}/task/{victim}/children").read_text().split()
        victim = int(children[0]) if children else victim
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        pass


def live(training, chance, at_call, longest):
    """One life of the run; whether it was killed: at a call on its files, or at some time."""
    begin = time.monotonic()
    process = training.start(chance.randrange(1, 120) if at_call else 0)
    try:
        process.wait(None if at_call else chance.uniform(0, longest))
        killed_late = False
    except subprocess.TimeoutExpired:
        kill(process, training.inside)
        killed_late = True
    complaint = process.communicate()[1]
    if process.returncode == 0:
        return False, time.monotonic() - begin
    killed = killed_late or process.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    check(killed and "resnet_cifar:" not in complaint, f"a restart failed: {complaint}")
    return True, time.monotonic() - begin


def finish_and_compare(training, first):
    """The chain of killed runs against one that goes on from the first checkpoint without a kill."""
    process = training.start()
    complaint = process.communicate()[1]
    check(process.returncode == 0, f"the last restart failed: {complaint}")
    check(not left_behind(training.scratch), f"left behind: {left_behind(training.scratch)}")
    chain, chain_end = training.losses(), tensors_of(training.out / "last.safetensors")
    check(list(chain) == [str(step) for step in range(1, len(chain) + 1)], "the log of losses has gaps")

    shutil.rmtree(training.out)
    training.out.mkdir()
    shutil.copy(first, training.out / "last.safetensors")
    training.log.unlink()
    process = training.start()
    complaint = process.communicate()[1]
    check(process.returncode == 0, f"the unbroken run failed: {complaint}")
    unbroken = training.losses()
    check(unbroken and all(chain[step] == loss for step, loss in unbroken.items()), "the losses differ")
    check(chain_end == tensors_of(training.out / "last.safetensors"), "parameters or optimizer differ")
    return len(unbroken)


def kills_of(build, scratch, inside, cold, epochs, count, chance):
    kills = chains = compared = 0
    longest = 3.0
    while kills < count:
        training = Training(build, scratch / f"chain{chains}", inside, cold, epochs, chance)
        last, first = training.out / "last.safetensors", training.scratch / "first.safetensors"
        finished = False
        while kills < count and not finished:
            at_call = not first.exists() or chance.random() < 0.5  # never before the first checkpoint is made
            killed, seconds = live(training, chance, at_call, longest)
            kills += killed
            finished = not killed
            if last.exists() and not first.exists():
                shutil.copy(last, first)
            if finished:
                longest = min(longest, seconds)
        if first.exists():
            compared += finish_and_compare(training, first)
        chains += 1
        shutil.rmtree(training.scratch)
    print(f"{'cold' if cold else 'warm'} tuning cache: {kills} kills in {chains} runs: every restart went on, "
          f"nothing left behind, {compared} losses equal to the bit to those of unbroken runs")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["faults", "kills"])
    parser.add_argument("--build", type=Path, required=True, help="folder of the built programs")
    parser.add_argument("--kills", type=int, default=500, help="half with a cold tuning cache, half with a warm one")
    parser.add_argument("--epochs", type=int, default=30, help="of a run, each of ten steps")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    build, inside = options.build.resolve(), namespace()
    with tempfile.TemporaryDirectory(prefix="fusetape_torture.") as folder:
        scratch = Path(folder).resolve()
        if options.mode == "faults":
            for kind in ("checkpoint", "tuning"):
                faults_of(kind, build, scratch, inside)
        else:
            chance = random.Random(options.seed)
            half = (options.kills + 1) // 2
            kills_of(build, scratch, inside, True, options.epochs, half, chance)
            kills_of(build, scratch, inside, False, options.epochs, options.kills - half, chance)


if __name__ == "__main__":
    main()
