"""Another revision of this repository, checked out and built beside this one: for plan_diff.py and bench_diff.py."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = "build/release"


def run(*command, **options):
    """Quiet, unless it fails."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}failed: {' '.join(map(str, command))}")
    return done.stdout.strip()


def configured(name):
    """What this checkout's release build was configured with; None: nothing."""
    for line in (ROOT / BUILD / "CMakeCache.txt").read_text().splitlines():
        key, _, value = line.partition("=")
        if key.partition(":")[0] == name:
            return value
    return None


def compiler_options():
    """The same compiler, by the same cache of what it compiled."""
    names = ["CMAKE_CXX_COMPILER", "CMAKE_CXX_COMPILER_LAUNCHER"]
    values = [(name, configured(name)) for name in names]
    return [f"-D{name}={value}" for name, value in values if value]


def configure(folder):
    run("cmake", "--preset", "release", *compiler_options(), "-DFUSETAPE_TESTS=OFF", "-DFUSETAPE_BENCHMARKS=OFF",
        cwd=folder)


def build(folder, *targets):
    jobs = os.environ.get("JOBS", str(os.cpu_count()))
    run("cmake", "--build", BUILD, "-j", jobs, "--target", *targets, cwd=folder)


@contextlib.contextmanager
def checked_out(revision):
    """A folder under build/ with the revision's sources and this checkout's dependencies, configured; gone afterwards.
    Its place is always the same, so that a compiler cache knows its files again."""
    commit = run("git", "rev-parse", "--verify", revision + "^{commit}", cwd=ROOT)
    folder = ROOT / "build" / "base"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what follows a yield is done
    with open(ROOT / "build" / "base.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"{folder} is in use by another comparison")
        remove(folder)  # a killed run leaves it
        run("git", "worktree", "add", "--force", "--detach", folder, commit, cwd=ROOT)
        try:
            (folder / ".deps").symlink_to((ROOT / ".deps").resolve())
            configure(folder)
            yield folder
        finally:
            remove(folder)


def remove(folder):
    if folder.exists():
        run("git", "worktree", "remove", "--force", folder, cwd=ROOT)
