#!/usr/bin/env python3
"""The README's matrix of formats and programs, from tools/interop/results: tools/interop/matrix.py."""

import json
import pathlib

RESULTS = pathlib.Path(__file__).resolve().parent / "results"


def text_of(cells):
    """Files that one read and the other wrote, and how far the two programs' nll are apart at most."""
    parts = []
    for direction in ("reads", "writes"):
        found = [cell for cell in cells if cell["direction"] == direction]
        if not found:
            continue
        plain = [cell["relative"] for cell in found if "dense" not in cell]
        beyond = [cell for cell in found if "dense" in cell]
        part = f"{direction} {len(found)}"
        if plain:
            part += f" ({max(plain):.0e})"
        if beyond:
            part += f", {len(beyond)} of them as far apart as on dense weights ({max(cell['relative'] for cell in beyond):.0e})"
        parts.append(part)
    return "; ".join(parts) or "-"


def rows(results):
    programs = list(results)
    formats = list(dict.fromkeys(cell["format"] for part in results.values() for cell in part["cells"]))
    yield ["format", *programs]
    yield ["--"] * (1 + len(programs))
    for form in formats:
        yield [form, *(text_of([cell for cell in results[program]["cells"] if cell["format"] == form]) for program in programs)]


def versions(results):
    for program, part in results.items():
        made_by = part["made_by"]
        packages = ", ".join(f"{name} {version}" for name, version in made_by.items()
                             if name not in ("command", "machine", "nibble"))
        yield f"{program}: {packages}, {max(cell['date'] for cell in part['cells'])}, `{made_by['command']}`"


def main():
    parts = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]
    results = {part["program"]: part for part in parts}
    print("\n".join("| " + " | ".join(row) + " |" if row[0] != "--" else "|" + "|".join(row) + "|" for row in rows(results)))
    print()
    print("\n".join(f"- {line}" for line in versions(results)))


if __name__ == "__main__":
    main()
