#!/usr/bin/env python3
"""Checks every #include and every CMake DEPENDS against the layer table of README.md.

The table stands between <!-- layers --> and <!-- /layers -->: target, paths (globs, the longest match wins),
targets it may use. A target may also use what those may use. Includes in quotes are repository paths.
"""

import argparse
import fnmatch
import pathlib
import re
import sys

SOURCES = (".h", ".cc", ".cu", ".cuh")
FOLDERS = ("src", "quantizers", "calibration", "formats", "kernels", "tests", "tools")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
MODULE = re.compile(r"\bnibble_(module|test)\s*\(([^)]*)\)")


class Layers:
    """The table: names in order, path patterns, and the closure of what each may use."""

    def __init__(self, readme):
        table = re.search(r"<!-- layers -->(.*?)<!-- /layers -->", readme, re.S)
        if not table:
            raise SystemExit("README.md: no table between <!-- layers --> and <!-- /layers -->")
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")]
                for line in table[1].splitlines() if line.lstrip().startswith("|")][2:]
        self.patterns = []  # (pattern, name)
        self.uses = {}
        for name, paths, uses, *_ in rows:
            name = name.strip("`")
            named = [] if uses == "anything" else re.findall(r"[a-z_]+", uses)
            if unknown := [use for use in named if use not in self.uses]:
                raise SystemExit(f"README.md: layer '{name}' uses {unknown}, which no row above it defines")
            self.uses[name] = {name}.union(*(self.uses[use] for use in named))
            if uses == "anything":
                self.uses[name].update(self.uses)
            self.patterns += [(path, name) for path in re.findall(r"[^\s`]+", paths)]

    def of(self, path):
        """The layer of a repository path, or None."""
        hits = [(len(pattern), name) for pattern, name in self.patterns
                if fnmatch.fnmatchcase(path, pattern) or (pattern.endswith("/") and path.startswith(pattern))]
        return max(hits)[1] if hits else None


def check_includes(root, layers):
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in SOURCES:
                continue
            name = path.relative_to(root).as_posix()
            layer = layers.of(name)
            if layer is None:
                yield f"{name}: no row of the layer table holds this file"
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if not (match := INCLUDE.match(line)):
                    continue
                target = match[1]
                if not any((root / (target + made)).is_file() for made in ("", ".in")):
                    yield f"{name}:{number}: \"{target}\" is no repository path"
                elif (other := layers.of(target)) is None:
                    yield f"{name}:{number}: no row of the layer table holds \"{target}\""
                elif other not in layers.uses[layer]:
                    yield f"{name}:{number}: layer '{layer}' may not include \"{target}\" (layer '{other}')"


def check_cmake(root, layers):
    for path in sorted(root.glob("**/CMakeLists.txt")):
        name = path.relative_to(root).as_posix()
        if name.split("/")[0] not in FOLDERS:
            continue
        for kind, body in MODULE.findall(re.sub(r"#.*", "", path.read_text(encoding="utf-8"))):
            words = body.split()
            lists = {"SOURCES": [], "DEPENDS": [], "LIBRARIES": [], "": []}
            current = ""
            for word in words:
                if word in lists:
                    current = word
                else:
                    lists[current].append(word)
            module = lists[""][0]
            if "$" in module:  # the definition of the function
                continue
            layer = module if kind == "module" else "tests"
            if layer not in layers.uses:
                yield f"{name}: nibble_module({module}) has no row in the layer table"
                continue
            for use in lists["DEPENDS"]:
                if use not in layers.uses:
                    yield f"{name}: {module} DEPENDS {use}, which has no row in the layer table"
                elif use not in layers.uses[layer]:
                    yield f"{name}: layer '{layer}' may not depend on '{use}'"
            for source in lists["SOURCES"]:
                source_path = (path.parent / source).relative_to(root).as_posix()
                if "$" not in source and (owner := layers.of(source_path)) != layer:
                    yield f"{name}: {source} is compiled into '{layer}', but the layer table puts it in '{owner}'"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    root = parser.parse_args().root
    layers = Layers((root / "README.md").read_text(encoding="utf-8"))
    problems = [*check_includes(root, layers), *check_cmake(root, layers)]
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"{len(layers.uses)} layers, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
