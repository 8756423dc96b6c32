"""What every golden file says about itself: the command and the versions that made it."""

import importlib.metadata
import json
import pathlib
import platform
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def provenance(*packages):
    command = "python " + pathlib.Path(sys.argv[0]).resolve().relative_to(ROOT).as_posix()
    return {
        "command": command,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def write_golden(name, content):
    """tests/golden/NAME.json, lists of plain values on one line."""
    path = ROOT / "tests" / "golden" / f"{name}.json"
    text = re.sub(r"\[[^][{}]*\]", lambda m: re.sub(r"\s*\n\s*", " ", m[0]).replace("[ ", "[").replace(" ]", "]"), json.dumps(content, indent=1))
    path.write_text(text + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")
