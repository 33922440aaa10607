"""Whether what the documents name exists: links, paths, make targets, presets, options of our programs, FUSETAPE_
variables and names of the API; and whether each variable that the library reads stands in a document.

    python3 tests/documents/names.py --programs build/release [DOCUMENT…]

Without a DOCUMENT: README, CONTRIBUTING and docs/. Each name that does not exist is a line, with the place that comes
nearest.
"""

import argparse
import difflib
import fnmatch
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {".git", ".deps", ".cache", "build", "data", "runs", "__pycache__"}  # of the top; made, not kept
INVENTED = {"model.cpp"}  # stands for a reader's own
SOURCES = r"(?:cpp|hpp|cu|cuh|inc|py|sh|cmake|md)"
WORD = r"[A-Za-z_*.][\w*.-]*(?:\{[\w,]+\}[\w*.-]*)*"
PATH = re.compile(rf"(?<![\w$~/<>.*{{}}-])(?:(?:{WORD}/)+(?:{WORD})?|{WORD}\.{SOURCES}\b)")


@functools.cache
def files():
    """Files and folders (with a slash behind them) of the repository."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT)
        folders[:] = [name for name in folders if name not in NOT_OURS or (here.parts and name == "data")]
        found += [str(here / name) for name in names] + [f"{here / name}/" for name in folders]
    return found


@functools.cache
def words(pattern, *folders):
    """What the pattern finds in the sources and build files of these."""
    paths = [ROOT / name for name in files() if name.startswith(folders) and not name.endswith((".md", "/"))]
    return {word for path in paths for word in re.findall(pattern, path.read_text(errors="ignore"))}


def expanded(path):
    """a_{b,c}.cpp: one for each."""
    braces = re.search(r"\{([\w,]+)\}", path)
    if not braces:
        return [path]
    return [one for part in braces[1].split(",") for one in expanded(path.replace(braces[0], part, 1))]


# ---- each kind: the names in a piece of text that do not exist


def wrong_paths(text):
    for token in PATH.findall(re.sub(r"\w+://\S+|\]\([^)]*\)", "", text)):
        for path in expanded(token.rstrip(".")):
            if not path_exists(path):
                yield "path", path, nearest(path)


def path_exists(path):
    top = path.split("/")[0]
    if path in INVENTED or path.count(".") == len(path):
        return True
    if top == "build":
        return built(path)
    if top in NOT_OURS:
        return True
    if "/" in path and top in os.listdir(ROOT):  # from the top
        return any(fnmatch.fnmatchcase(name.rstrip("/"), path.rstrip("/")) for name in files())
    if path.endswith("/") or re.search(rf"\.{SOURCES}$", path):  # from anywhere
        return any(fnmatch.fnmatchcase("/" + name, "*/" + path) for name in files())
    return True  # not a path: "and/or"


def built(path):
    """build/PRESET/examples/PROGRAM."""
    parts = path.rstrip("/").split("/")
    if len(parts) > 1 and parts[1] not in presets() and path not in words(r"build/[\w/]+", "Makefile"):
        return False
    program = parts[3] if len(parts) > 3 else "fusetape_tests"
    return program == "fusetape_tests" or f"{parts[2]}/{program}.cpp" in files()


def nearest(path):
    name = path.rstrip("/").split("/")[-1]
    same = [other for other in files() if other.rstrip("/").split("/")[-1] == name]
    return same or difflib.get_close_matches(path, files(), 1)


@functools.cache
def presets():
    return {preset["name"] for preset in json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]}


def wrong_presets(command):
    for name in re.findall(r"--preset ([a-z][\w-]*)", command):
        if name not in presets():
            yield "preset", name, difflib.get_close_matches(name, presets(), 1)


def wrong_targets(command):
    if not command.startswith("make "):
        return
    targets = words(r"(?m)^([a-z][\w-]*):", "Makefile")
    for word in command.split()[1:]:
        name, is_variable, _ = word.partition("=")
        if is_variable and name not in words(r"\w+", "Makefile"):
            yield "variable of make", name, []
        elif not is_variable and re.fullmatch(r"[a-z][\w-]*", word) and word not in targets:
            yield "target of make", word, difflib.get_close_matches(word, targets, 1)


def wrong_options(command, options):
    program = re.sub(r"^(?:(?:\w+=\S*|python3?) )*", "", command).split(" ")[0].split("/")[-1]
    if program.startswith("--"):  # of any program
        known, program = set().union(*options.values()), ""
    elif program in options:
        known = options[program]
    else:
        return
    for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", command):
        if word not in known:
            yield "option", f"{program} {word}".strip(), difflib.get_close_matches(word, known, 1)


def wrong_variables(text):
    known = words(r"FUSETAPE_\w+", "core", "ops", "backends", "nn", "cmake", "CMakeLists.txt", "tests", "Makefile", "tools")
    for name in re.findall(r"\bFUSETAPE_\w+", text):
        if name not in known:
            yield "variable", name, difflib.get_close_matches(name, known, 1)


def wrong_api(text):
    known = words(r"\w+", "include")
    for name in re.findall(r"\bft::(\w+(?:::\w+)*)", text):
        if not known.issuperset(name.split("::")):
            yield "name of the API", f"ft::{name}", difflib.get_close_matches(name, known, 1)


def wrong_links(text, document):
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (document.parent / path) if path else document
        if not file.exists():
            yield "link", target, nearest(path)
        elif anchor and anchor not in anchors(file):
            yield "link", target, difflib.get_close_matches(anchor, anchors(file), 1)


def anchors(document):
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


# ---- documents and programs


def pieces(document):
    """(line number, text, its pieces of code), line by line. C++ is code.py's."""
    block = None
    for number, line in enumerate(document.read_text().splitlines(), 1):
        if line.startswith("```"):
            block = line[3:] if block is None else None
        elif block is None:
            yield number, line, re.findall(r"`([^`]+)`", line)
        elif block != "cpp":
            yield number, line, [re.sub(r"(^|\s)#.*", "", line)]


def wrong_names(document, options):
    for number, text, code in pieces(document):
        found = [*wrong_paths(text), *wrong_variables(text), *wrong_api(text), *wrong_links(text, document)]
        for command in (part.strip() for piece in code for part in re.split(r"&&|;|\|", piece)):
            found += [*wrong_presets(command), *wrong_targets(command), *wrong_options(command, options)]
        for kind, name, near in found:
            yield f"{number}: {kind} {name}" + (f" (perhaps {', '.join(near[:3])})" if near else "")


def options_of(build):
    """Program → its options: of one of ours from its own --help, of a script from its text."""
    programs = {path.stem: [build / "examples" / path.stem, "--help"] for path in (ROOT / "examples").glob("*.cpp")
                if "command_line.hpp" in path.read_text()}
    programs["fusetape_tests"] = [build / "tests" / "fusetape_tests", "--help"]
    running = {name: subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for name, command in programs.items()}
    told = {name: process.communicate()[0] for name, process in running.items()}
    told |= {name.split("/")[-1]: (ROOT / name).read_text() for name in files() if name.endswith((".py", ".sh"))}
    return {name: {"--help", *re.findall(r"--[a-z][\w-]*", text)} for name, text in told.items()}


def undocumented(documents):
    text = "\n".join(document.read_text() for document in documents)
    read = words(r'"(FUSETAPE_[A-Z_]+)"', "core", "ops", "backends", "nn")
    return [f"no document tells of the variable {name}" for name in sorted(read) if not re.search(rf"\b{name}\b", text)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, required=True, help="a build folder")
    parser.add_argument("documents", nargs="*", type=Path)
    arguments = parser.parse_args()
    documents = arguments.documents or [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    options = options_of(arguments.programs.resolve())
    wrong = [f"{os.path.relpath(document, ROOT)}:{what}" for document in documents for what in wrong_names(document, options)]
    if not arguments.documents:
        wrong += undocumented(documents)
    print(*wrong, f"{len(documents)} documents, {len(wrong)} wrong names", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
