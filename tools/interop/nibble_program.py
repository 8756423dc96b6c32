"""Runs the program under test: build/nibble, or the one that NIBBLE names."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "golden"))
PROGRAM = pathlib.Path(os.environ.get("NIBBLE", ROOT / "build" / "nibble"))


def nibble(*arguments):
    """The JSON object that `nibble ARGUMENTS --json` prints."""
    run = subprocess.run([PROGRAM, *map(str, arguments), "--json"], check=False, capture_output=True, text=True)
    if run.returncode != 0:
        said = " ".join((run.stdout + run.stderr).split())
        raise RuntimeError(f"nibble {' '.join(map(str, arguments))}: status {run.returncode}: {said}")
    return json.loads(run.stdout)


def version():
    run = subprocess.run([PROGRAM, "--version"], check=True, capture_output=True, text=True)
    return run.stdout.split()[-1]
