"""Runs the program under test and keeps the score of an interop script."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "golden"))


def nibble(*arguments):
    """The JSON object that `nibble ARGUMENTS --json` prints."""
    run = subprocess.run([ROOT / "build" / "nibble", *map(str, arguments), "--json"], check=False,
                         capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(f"nibble {' '.join(map(str, arguments))}: status {run.returncode}\n{run.stdout}{run.stderr}")
    return json.loads(run.stdout)


class Score:
    """One line for every comparison; the script fails if one does not hold."""

    def __init__(self):
        self.failed = 0

    def check(self, name, passed, detail):
        self.failed += not passed
        print(f"{'ok  ' if passed else 'FAIL'} {name}: {detail}", flush=True)

    def relative(self, name, ours, theirs, limit):
        difference = abs(ours - theirs) / abs(theirs)
        self.check(name, difference <= limit, f"nibble {ours:.7f}, peer {theirs:.7f}, relative {difference:.1e} <= {limit:g}")

    def exit(self):
        print(f"{self.failed} failed")
        sys.exit(1 if self.failed else 0)
