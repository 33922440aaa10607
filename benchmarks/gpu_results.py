"""What benchmarks/gpu.sh found: one JSON file, and the table made of it.

    python benchmarks/gpu_results.py machine --json runs/gpu.json              exit 1, with a line, without a GPU
    python benchmarks/gpu_results.py stage --json runs/gpu.json --name build --outcome ok --seconds 140
    python benchmarks/gpu_results.py table --json runs/gpu.json

Written whole after every change, under another name first: a stage that is cut off leaves what it had.
"""

import argparse
import ctypes
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path


# ---- the file


def load(path):
    return json.loads(path.read_text()) if path.exists() else {"machine": {}, "stages": {}, "rows": []}


def save(path, results):
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(fresh, path)


def key_of(row):
    return [row.get(name) for name in ("kind", "model", "batch", "precision", "seed")]


def add_row(path, row):
    """In the place of an earlier one of the same subject."""
    results = load(path)
    results["rows"] = [other for other in results["rows"] if key_of(other) != key_of(row)] + [row]
    save(path, results)


# ---- the machine


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def first_match(pattern, text):
    found = re.search(pattern, text)
    return found.group(1) if found else None


def devices():
    """Names of the GPUs that the driver offers, by the driver itself: a container may lack nvidia-smi."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    names = []
    for index in range(count.value):
        name = ctypes.create_string_buffer(256)
        driver.cuDeviceGetName(name, len(name), index)
        names.append(name.value.decode())
    return names


def driver_version():
    asked = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0].strip()
    module = Path("/proc/driver/nvidia/version")
    return asked or first_match(r"Module\D+([\d.]+)", module.read_text() if module.exists() else "")


def cudnn_version(nvcc):
    """Of the headers that the build takes: the toolkit's, or those of `make deps-cuda`."""
    places = [Path(nvcc).parent.parent / "include", Path("/usr/include"), Path(".deps/cudnn/include")]
    for header in (place / "cudnn_version.h" for place in places):
        if header.exists():
            return ".".join(re.findall(r"#define CUDNN_(?:MAJOR|MINOR|PATCHLEVEL) (\d+)", header.read_text()))
    return None


def machine(names, nvcc):
    return {
        "devices": names,
        "driver": driver_version(),
        "cuda": first_match(r"release ([\d.]+)", output_of(nvcc, "--version")),
        "cudnn": cudnn_version(nvcc),
        "clocks": output_of("nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,power.limit", "--format=csv").strip(),
        "cpu": first_match(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()),
        "cores": os.cpu_count(),
        "commit": output_of("git", "rev-parse", "HEAD").strip() or None,
    }


def note_machine(options):
    names = devices()
    if not names:
        sys.exit("gpu.sh: no NVIDIA GPU here (the driver offers none): nothing is built or run")
    results = load(options.json)
    results["machine"] |= machine(names, options.nvcc)
    save(options.json, results)
    print(f"gpu.sh: {names[0]}, driver {results['machine']['driver']}, CUDA {results['machine']['cuda']}")


# ---- a stage


def note_stage(options):
    results = load(options.json)
    results["stages"][options.name] = {"outcome": options.outcome, "seconds": options.seconds}
    save(options.json, results)


# ---- the table


def table(header, rows):
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines) + "\n"


def spread(ratio):
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else ""


def subject(row):
    return [row["model"], row["batch"], row["precision"]]


def cells(row, series, ratios):
    """Medians in ms, then ratios with the least and the greatest of a round."""
    median = row["median_ms"]
    return (subject(row) + [f"{median[name]:.3f}" if name in median else "failed" for name in series]
            + [spread(row["ratios"].get(pair)) for pair in ratios])


def measured(rows, kind):
    order = {"bf16": 0, "f16": 1, "f32": 2, "tf32": 3}
    chosen = [row for row in rows if row["kind"] == kind]
    return sorted(chosen, key=lambda row: (row["model"] != "resnet20", order[row["precision"]], row["batch"] or 0))


FUSION = ["fused", "unfused", "fused op by op", "unfused op by op"]
FUSION_RATIOS = ["unfused op by op/fused", "unfused/fused", "fused op by op/fused"]
PYTORCH = ["fused", "eager", "compiled", "reduce-overhead", "captured"]
PYTORCH_RATIOS = [f"fused/{name}" for name in PYTORCH[1:]]


def measured_table(rows, kind, series, ratios):
    header = ["model", "batch", "precision", *[f"{name}, ms" for name in series], *ratios]
    return table(header, [cells(row, series, ratios) for row in measured(rows, kind)])


def accuracy_table(rows):
    lines = []
    runs = measured(rows, "accuracy")
    for precision in dict.fromkeys(row["precision"] for row in runs):
        found = [row["test_accuracy"] for row in runs if row["precision"] == precision]
        lines.append(["resnet20", precision, len(found), f"{statistics.mean(found):.4f}",
                      f"{min(found):.4f} to {max(found):.4f}"])
    return table(["model", "precision", "seeds", "test accuracy, mean", "from … to"], lines)


def notes(rows):
    """What did not run as its column says."""
    lines = []
    for row in rows:
        name = ", ".join(map(str, subject(row)))
        lines += [f"- {name}: {series} was not one graph: {how}"
                  for series, how in row.get("replay", {}).items()
                  if "op by op" not in series and not how.startswith("one graph")]
        lines += [f"- {name}: {runner} failed: {reason}" for runner, reason in row.get("failed", {}).items()]
    return "\n".join(lines) + "\n" if lines else ""


def report(results):
    facts = results["machine"]
    torch = f", PyTorch {facts['torch']}" if "torch" in facts else ""
    stages = table(["stage", "outcome", "s"],
                   [[name, stage["outcome"], stage["seconds"]] for name, stage in results["stages"].items()])
    parts = [
        f"{', '.join(facts.get('devices', []))}: driver {facts.get('driver')}, CUDA {facts.get('cuda')}, "
        f"cuDNN {facts.get('cudnn')}{torch}\n",
        stages,
        measured_table(results["rows"], "fusion", FUSION, FUSION_RATIOS),
        measured_table(results["rows"], "pytorch", PYTORCH, PYTORCH_RATIOS),
        accuracy_table(results["rows"]),
        notes(results["rows"]),
    ]
    return "\n".join(part for part in parts if part)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["machine", "stage", "table"])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--nvcc", default="nvcc", help="of the toolkit that builds")
    parser.add_argument("--name", help="of the stage")
    parser.add_argument("--outcome", help="of the stage")
    parser.add_argument("--seconds", type=int, help="that the stage took")
    return parser.parse_args()


def main(options):
    if options.what == "machine":
        note_machine(options)
    elif options.what == "stage":
        note_stage(options)
    else:
        print(report(load(options.json)), end="")


if __name__ == "__main__":
    main(arguments())
