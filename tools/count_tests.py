#!/usr/bin/env python3
"""Prints the totals of a test run: tools/count_tests.py RESULTS.

RESULTS holds ctest.junit and one XML file for each GoogleTest program that ended by itself. The tests
inside those programs are counted; any other ctest entry (a script, a program that crashed) counts as one.
"""

import collections
import pathlib
import sys
import xml.etree.ElementTree as xml


def count(results):
    """Returns (passed, failed, skip reason -> number of tests)."""
    passed = failed = 0
    skipped = collections.Counter()
    programs = set()
    for path in sorted(results.glob("*.xml")):
        programs.add(path.stem)
        for case in xml.parse(path).getroot().iter("testcase"):
            if case.find("failure") is not None:
                failed += 1
            elif (skip := case.find("skipped")) is not None:
                skipped[skip.get("message", "").split("\n")[-1] or "no reason"] += 1
            else:
                passed += 1
    for case in xml.parse(results / "ctest.junit").getroot().iter("testcase"):
        status = case.get("status")
        if status == "fail":
            # A program whose XML shows its failures is already counted; a crash or a time-out is not.
            path = results / (case.get("name") + ".xml")
            if not path.exists() or xml.parse(path).getroot().get("failures") == "0":
                failed += 1
        elif case.get("name") not in programs:
            if status == "run":
                passed += 1
            else:
                skipped["ctest: " + status] += 1
    return passed, failed, skipped


def main():
    passed, failed, skipped = count(pathlib.Path(sys.argv[1]))
    for reason, number in skipped.items():
        print(f"skipped {number}: {reason}")
    print(f"{passed} passed, {failed} failed, {sum(skipped.values())} skipped")


if __name__ == "__main__":
    main()
