"""Every comparison with PyTorch, as a table for docs/performance.md and as JSON: `make bench`.

    python benchmarks/suite.py --json runs/bench.json [--only resnet20]

Each row is a run of vs_pytorch.py (see there): the same model, batch, precision, recipe and threads, alternating in
the same minutes. The first run of --setup installs PyTorch into an environment of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import vs_pytorch

HERE = Path(__file__).resolve().parent

# model, batch, precision, threads, timed steps in a block, rounds
ROWS = [
    *[("resnet20", batch, precision, threads, 10, 5)
      for precision in ("f32", "bf16") for batch in (32, 128, 512) for threads in (1, 2)],
    *[("resnet56", 128, precision, 2, 5, 4) for precision in ("f32", "bf16")],
    *[("resnet18", 128, precision, 2, 2, 3) for precision in ("f32", "bf16")],
    *[(model, batch, precision, threads, 2, 3)
      for model in ("mobilenet_v2", "mobilenet_v2_silu", "bottleneck", "vgg", "vgg_without_norms", "inception")
      for batch, threads in ((32, 2), (128, 2), (128, 1)) for precision in ("f32", "bf16")],
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="rows of this model")
    parser.add_argument("--rounds", type=int, help="in every row; default: as the table says")
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], help="of PyTorch")
    parser.add_argument("--python", help="a Python that has PyTorch; default: as vs_pytorch.py finds one")
    parser.add_argument("--noise", default="0.05", help="share of the machine that others may use in a round")
    parser.add_argument("--json", type=Path, help="write everything measured")
    return parser.parse_args()


def compare(row, options, folder):
    model, batch, precision, threads, steps, rounds = row
    rounds = options.rounds or rounds
    result = Path(folder) / "row.json"
    command = [sys.executable, HERE / "vs_pytorch.py", "--model", model, "--batch", str(batch), "--precision", precision,
               "--threads", str(threads), "--steps", str(steps), "--rounds", str(rounds), "--noise", options.noise,
               "--json", result, "--modes", *options.modes]
    if options.python:
        command += ["--python", options.python]
    print(f"-- {model}, batch {batch}, {precision}, {threads} threads", flush=True)
    subprocess.run(command, check=True)
    return json.loads(result.read_text())


def megabytes(sizes):
    """Ours / eager PyTorch's, where each was measured."""
    return " / ".join(f"{sizes[name] / 1e6:.0f}" if sizes.get(name) else "" for name in ("fused", "eager"))


def line(result):
    median, ratios = result["median_ms"], result["ratios"]
    best = result["best_pytorch"]
    against = ratios[f"fused/{best}"]
    first = result["first_step_ms"]
    cells = [result["model"], result["batch"], result["precision"], result["threads"],
             f"{median['fused']:.1f}", f"{median['unfused']:.1f}", f"{median[best]:.1f} ({best})",
             f"**{against['median']:.2f}** ({against['min']:.2f} to {against['max']:.2f})",
             f"{ratios['fused/unfused']['median']:.2f}", f"{first['fused']:.0f} / {first[best]:.0f}",
             megabytes(result["kept_bytes"]), megabytes(result["resident_bytes"])]
    return "| " + " | ".join(map(str, cells)) + " |"


HEADER = """
| model | batch | precision | threads | fused, ms | unfused | PyTorch's best | fused / PyTorch | fused / unfused | \
first step, ms (ours / PyTorch) | kept, MB (ours / eager) | process grew, MB (ours / eager) |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def main(options):
    rows = [row for row in ROWS if options.only in (None, row[0])]
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            results.append(compare(row, options, folder))
            if options.json:  # after each row: all of them take long
                options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(HEADER)
    for result in results:
        print(line(result))


if __name__ == "__main__":
    parsed = arguments()
    if not parsed.python and not vs_pytorch.found_pytorch():
        vs_pytorch.set_up()
    main(parsed)
