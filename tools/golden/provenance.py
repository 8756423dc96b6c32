"""What every golden file says about itself: the command and the versions that made it."""

import importlib.metadata
import json
import pathlib
import platform
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
    """tests/golden/NAME.json, one top-level key a line where it is short."""
    path = ROOT / "tests" / "golden" / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")
