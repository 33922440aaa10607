"""What differs between the plans of another revision and those of this checkout: `make plan-diff BASE=revision`.

    python3 tools/plan_diff.py BASE [--models resnet20 mlp] [--batch 32]

Each revision's own `explain_plan --json` is asked: every model that it knows, trained in f32 and bf16, planned fused,
unfused and with balanced retention; the networks for images also in evaluation. Tuning is off, one thread runs. Places
in sources and models, times and the machine are left out. What one of the two cannot say is told, and passed over.
"""

import argparse
import collections
import concurrent.futures
import difflib
import itertools
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import base_revision

EXPLAIN_PLAN = Path(base_revision.BUILD) / "examples" / "explain_plan"
TOTALS = ["kernels", "tensor_passes", "unfused_passes", "bytes", "unfused_bytes", "kept_bytes", "unfused_kept_bytes",
          "peak_bytes", "arena_bytes", "scratch_bytes", "retention"]
# Of a report's lists: what tells an item from others, and what else it says.
LISTS = {
    "groups": (["phase", "name", "kernel", "shape", "dtype"],
               ["rule", "why", "ops", "tensor_passes", "unfused_passes", "bytes", "unfused_bytes", "flops",
                "kernel_flops", "kernel_dtype", "kept_bytes"]),
    "refusals": (["rule", "group", "reason"], []),
    "kept": (["op", "shape", "dtype"], ["bytes"]),
}
MODES = {  # options, environment
    "fused": ([], {}),
    "unfused": ([], {"FUSETAPE_FUSE": "off"}),
    "balanced": (["--retention", "balanced"], {}),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a revision of this repository")
    parser.add_argument("--models", nargs="+", help="default: all that this checkout's explain_plan knows")
    parser.add_argument("--batch", default="32")
    return parser.parse_args()


def known_models():
    text = subprocess.run([base_revision.ROOT / EXPLAIN_PLAN, "--help"], text=True, capture_output=True, check=True).stdout
    return re.search(r"--model [^{]*{([^}]*)}", text).group(1).split(",")


def plans_to_ask(models, batch):
    """name, options, environment"""
    for model, precision, evaluate in itertools.product(models, ["f32", "bf16"], [False, True]):
        for mode, (options, environment) in MODES.items():
            if evaluate and mode == "balanced":
                continue  # there is no backward to keep for
            what = ["--model", model, "--precision", precision, "--batch", batch, "--threads", "1", *options]
            name = f"{model} {precision}{' evaluation' if evaluate else ''}, {mode}"
            yield name, what + ["--evaluate"] * evaluate, environment


def explain(folder, options, environment):
    """The report, or in words why there is none."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FUSETAPE_")}
    clean |= {"FUSETAPE_TUNE": "off", "OMP_WAIT_POLICY": "passive", **environment}
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        done = subprocess.run([folder / EXPLAIN_PLAN, *options, "--json", file.name], env=clean, text=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode != 0:
            return None, done.stderr.strip() or f"exit status {done.returncode}"
        return json.loads(Path(file.name).read_text()), ""


def told_by_both(base, here, unknown):
    """The fields of each list (and, as "", of the report) that both reports tell. A list without items tells nothing.
    What only one of them tells is added to `unknown`."""
    both = {}
    for kind, wanted in {"": TOTALS, **{kind: who + what for kind, (who, what) in LISTS.items()}}.items():
        told = [set(items[0]) for report in (base, here) if (items := report.get(kind, []) if kind else [report])]
        both[kind] = [field for field in wanted if all(field in fields for fields in told)]
        unknown.update(f"{kind} {field}".strip() for field in wanted if field not in both[kind])
    return both


def items_of(report, fields):
    """(what it is, {what it says}): the plan, its kernels, refusals and what it keeps, in their order."""
    yield "the plan", {field: report[field] for field in fields[""]}
    for kind, (who, what) in LISTS.items():
        label = {"groups": "", "refusals": "not fused: ", "kept": "kept: "}[kind]
        for item in report.get(kind, []):
            name = ", ".join(str(item[field]) for field in who if field in fields[kind] and item[field] != "")
            yield label + name, {field: item[field] for field in what if field in fields[kind]}


def difference(base, here, unknown):
    """Lines: what only one of two reports has, and what both have but tell otherwise."""
    fields = told_by_both(base, here, unknown)
    before, after = list(items_of(base, fields)), list(items_of(here, fields))
    lines = []
    names = [[name for name, _ in items] for items in (before, after)]
    for change, a, a_end, b, b_end in difflib.SequenceMatcher(None, *names, autojunk=False).get_opcodes():
        if change == "equal":
            for (name, old), (_, new) in zip(before[a:a_end], after[b:b_end]):
                if old != new:
                    lines.append(f"~ {name}: " + ", ".join(f"{field} {old[field]} → {new[field]}" for field in old
                                                           if old[field] != new[field]))
        else:
            lines += [f"- {name}" for name, _ in before[a:a_end]] + [f"+ {name}" for name, _ in after[b:b_end]]
    return [line if count == 1 else f"{line[0]} {count} ×{line[1:]}"
            for line, count in collections.Counter(lines).items()]


def main():
    options = arguments()
    models = options.models or known_models()
    compared = differing = 0
    unknown, alone = set(), collections.defaultdict(list)
    with base_revision.checked_out(options.base) as base_folder:
        base_revision.build(base_folder, "example_explain_plan")
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            asked = [(name, *(pool.submit(explain, folder, what, environment)
                              for folder in (base_folder, base_revision.ROOT)))
                     for name, what, environment in plans_to_ask(models, options.batch)]
            for name, *answers in asked:
                (base, base_refusal), (here, here_refusal) = [answer.result() for answer in answers]
                if base is None and here is None:
                    continue  # not a network for images
                if base is None or here is None:
                    alone[f"in BASE: {base_refusal}" if base is None else f"here: {here_refusal}"].append(name)
                    continue
                compared += 1
                changes = difference(base, here, unknown)
                if changes:
                    differing += 1
                    print(f"{name}:", *changes, sep="\n  ", flush=True)
    for why, names in alone.items():
        print(f"not {why}: {'; '.join(names)}")
    for field in sorted(unknown):
        print(f"not compared, as only one of the two tells it: {field}")
    print(f"{compared} plans compared, {differing} differ")


if __name__ == "__main__":
    main()
