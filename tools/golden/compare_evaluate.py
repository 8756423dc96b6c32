#!/usr/bin/env python3
"""`nibble evaluate` against every row of tests/golden/evaluate.json and tiny_models.json: 1e-5 relative.

Needs tools/build first and the data folder named by NIBBLE_TEST_DATA; only Python's standard library.
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = 1e-5


def rows():
    """name, model, dataset, seq_len, limit, protocol, expected."""
    data = pathlib.Path(os.environ["NIBBLE_TEST_DATA"])
    golden = json.loads((ROOT / "tests/golden/evaluate.json").read_text(encoding="utf-8"))
    for key, row in golden["results"].items():
        model, dataset, windows = key.split()
        dataset = ROOT / dataset if dataset.startswith("tests/") else data / dataset
        limit = 0 if windows == "all" else int(windows) * golden["seq_len"]
        for protocol in ("hf", "llama.cpp"):
            yield f"{key} {protocol}", data / model, dataset, golden["seq_len"], limit, protocol, row[protocol]
    golden = json.loads((ROOT / "tests/golden/tiny_models.json").read_text(encoding="utf-8"))
    for name, row in golden["results"].items():
        yield (f"tiny/{name}", ROOT / "tests/data/tiny" / name, ROOT / golden["ids"], row["seq_len"], 0, "hf", row)


def main():
    failed = 0
    for name, model, dataset, seq_len, limit, protocol, expected in rows():
        run = subprocess.run(
            [ROOT / "build" / "nibble", "evaluate", model, "-d", dataset, "--seq-len", str(seq_len), "--protocol", protocol,
             "--json", "--quiet", *(["--limit", str(limit)] if limit else [])], check=False, capture_output=True, text=True)
        if run.returncode != 0:
            print(f"FAIL {name}: {run.stdout}{run.stderr}")
            failed += 1
            continue
        result = json.loads(run.stdout)
        difference = abs(result["nll"] / expected["nll"] - 1)
        passed = difference <= TOLERANCE and result["tokens"] == expected["tokens"]
        failed += not passed
        print(f"{'ok  ' if passed else 'FAIL'} {name}: nll {result['nll']:.7f}, transformers {expected['nll']:.7f}, relative "
              f"{difference:.1e}, {result['tokens']} tokens, {result['seconds']:.1f} s", flush=True)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
