"""Compiles the C++ of README, CONTRIBUTING and docs/, all of it in one translation unit: a block that has a main() as it
stands, any other as the statements of a function to which a `loader` is given.

    python3 tests/documents/code.py CXX
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks(document):
    """(line before the block, its lines)"""
    lines = document.read_text().splitlines()
    for start in [number for number, line in enumerate(lines) if line == "```cpp"]:
        yield start + 1, lines[start + 1:lines.index("```", start)]


def translation_unit(documents):
    text = ["#include <fusetape/fusetape.hpp>", "#include <iostream>"]
    for index, (document, start, lines) in enumerate((d, s, b) for d in documents for s, b in blocks(d)):
        outside = [line if re.match(r"#include|namespace ", line) else "" for line in lines]
        inside = ["" if line else kept for line, kept in zip(outside, lines)]
        whole = any(line.startswith("int main(") for line in lines)
        place = f'#line {start + 1} "{document.relative_to(ROOT)}"'
        text += ["", place, *outside, f"namespace block_{index} {{", "namespace ft = fusetape;"]
        text += [] if whole else ["[[maybe_unused]] void run([[maybe_unused]] ft::data::DataLoader& loader) {{"]
        text += [place, *inside, "}" if whole else "}}}"]
    return "\n".join(text) + "\n"


def main():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = translation_unit(documents)
    command = [sys.argv[1], "-std=c++20", "-fsyntax-only", "-w", "-I", ROOT / "include", "-x", "c++", "-"]
    done = subprocess.run(command, input=text, text=True)
    print(f"{text.count('namespace block_')} blocks of C++")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
