"""Keeps the score of an interop script: a line for every comparison, and a cell of the matrix for every file that one
program wrote and the other evaluated.

    python tools/interop/with_PROGRAM.py [--keep] [CASE]

CASE: only those whose name has it. --keep: cells that pass are kept in tools/interop/results/PROGRAM.json, in the place of
earlier ones of the same case; tools/interop/matrix.py makes the README's table of them.
"""

import argparse
import contextlib
import datetime
import json
import platform
import re
import sys

from nibble_program import ROOT, version
from provenance import provenance

RESULTS = ROOT / "tools" / "interop" / "results"
READS, WRITES = "reads", "writes"  # what the other program does


class Score:
    def __init__(self, program, *packages):
        """packages: whose versions are kept."""
        parser = argparse.ArgumentParser()
        parser.add_argument("case", nargs="?", default="")
        parser.add_argument("--keep", action="store_true")
        self.options = parser.parse_args()
        self.program, self.packages = program, packages
        self.file = RESULTS / (re.sub(r"[^a-z0-9.]+", "-", program) + ".json")
        self.failed = 0

    def wants(self, name):
        return self.options.case in name

    def check(self, name, passed, detail):
        self.failed += not passed
        print(f"{'ok  ' if passed else 'FAIL'} {name}: {detail}", flush=True)

    def cell(self, form, direction, name, nll, limit, dense=None):
        """nll: nibble's of the file and the other program's. dense(): the same of its weights multiplied out, asked for
        where the two differ by more than `limit` (relative): then they must differ as much there."""
        ours, theirs = nll
        cell = {"format": form, "direction": direction, "case": name, "nibble": ours, "program": theirs,
                "relative": abs(ours - theirs) / abs(theirs), "limit": limit}
        passed = cell["relative"] <= limit
        if not passed and dense is not None:
            cell["dense"] = dict(zip(("nibble", "program"), dense()))
            passed = abs(ours / theirs - cell["dense"]["nibble"] / cell["dense"]["program"]) <= limit
        beside = f", on dense weights {cell['dense']['nibble']:.7f} and {cell['dense']['program']:.7f}" if "dense" in cell else ""
        self.check(f"{form}, {self.program} {direction} {name}", passed,
                   f"nll: nibble {ours:.7f}, {self.program} {theirs:.7f}, relative {cell['relative']:.1e}, limit {limit:g}{beside}")
        if self.options.keep and passed:
            self.keep(cell)

    @contextlib.contextmanager
    def case(self, name):
        """Of the script: what goes wrong in it fails, and the next one is run."""
        try:
            yield
        except Exception as error:  # pylint: disable=broad-exception-caught
            self.check(name, False, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}")

    def exit(self):
        print(f"{self.failed} failed")
        sys.exit(1 if self.failed else 0)

    def keep(self, cell):
        cells = json.loads(self.file.read_text(encoding="utf-8"))["cells"] if self.file.exists() else []
        same = [i for i, old in enumerate(cells) if all(old[key] == cell[key] for key in ("format", "direction", "case"))]
        cell["date"] = datetime.date.today().isoformat()
        cells = [cell if i in same else old for i, old in enumerate(cells)] + ([] if same else [cell])
        made_by = {**provenance(*self.packages), "nibble": version(), "machine": platform.machine()}
        made_by["command"] += " --keep"
        RESULTS.mkdir(exist_ok=True)
        result = {"program": self.program, "made_by": made_by, "cells": cells}
        text = re.sub(r"\{[^][{}]*\}", lambda m: re.sub(r"\s*\n\s*", " ", m[0]), json.dumps(result, indent=1))
        self.file.write_text(text + "\n", encoding="utf-8")
