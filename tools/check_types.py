#!/usr/bin/env python3
"""Two types of one name in one namespace break the one-definition rule, though every file compiles alone.

Reads the sources as clang-format leaves them: what stands in a namespace begins a line. Prints every such pair;
silent where there is none.
"""
import collections
import pathlib
import re
import sys

NAMESPACE = re.compile(r"namespace(?: ([\w:]+))? \{$")
TYPE = re.compile(r"(?:struct|class|union|enum class|enum) (\w+)(?: final)?(?: : .*)? \{")


def types_of(path):
    """The qualified names of the types that the file defines outside anonymous namespaces."""
    scopes = []
    for line in path.read_text().splitlines():
        namespace = NAMESPACE.match(line)
        if namespace:
            scopes.append(namespace.group(1))
        elif line.startswith("}  // namespace") and scopes:
            scopes.pop()
        type_ = TYPE.match(line)
        if type_ and None not in scopes:
            yield "::".join([*scopes, type_.group(1)])


def main():
    root = pathlib.Path(__file__).parent.parent
    files = collections.defaultdict(list)
    for folder in ("include", "core", "ops", "backends", "nn"):
        for path in sorted((root / folder).rglob("*.?pp")):
            for name in types_of(path):
                files[name].append(str(path.relative_to(root)))
    twice = {name: where for name, where in files.items() if len(where) > 1}
    for name, where in sorted(twice.items()):
        print(f"types: {name} is defined in {' and in '.join(where)}", file=sys.stderr)
    return 1 if twice else 0


if __name__ == "__main__":
    sys.exit(main())
