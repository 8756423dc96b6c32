"""tools/count_tests.py counts tests inside programs, scripts as one test, and crashes as failures."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

COUNT = pathlib.Path(__file__).resolve().parents[2] / "tools" / "count_tests.py"

PROGRAM = """<testsuites tests="4" failures="1">
<testsuite name="S"><testcase name="a" status="run"/><testcase name="b" status="run"/>
<testcase name="c" status="run"><failure message="no"/></testcase>
<testcase name="d" status="run"><skipped message="file.cc:3&#10;no data"/></testcase></testsuite></testsuites>"""


def junit(*cases):
    return "<testsuite>" + "".join(f'<testcase name="{name}" status="{status}"/>' for name, status in cases) + "</testsuite>"


def count(ctest, **programs):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "ctest.junit").write_text(ctest, encoding="utf-8")
        for name, text in programs.items():
            (folder / f"{name}.xml").write_text(text, encoding="utf-8")
        return subprocess.run([sys.executable, COUNT, folder], capture_output=True, text=True, check=True).stdout


class CountTests(unittest.TestCase):
    def test_counts_the_tests_inside_programs_and_scripts_as_one(self):
        output = count(junit(("p", "fail"), ("script", "run"), ("other_script", "fail")), p=PROGRAM)
        self.assertEqual(output, "skipped 1: no data\n3 passed, 2 failed, 1 skipped\n")

    def test_a_crash_counts_as_a_failure(self):
        self.assertEqual(count(junit(("p", "fail"))), "0 passed, 1 failed, 0 skipped\n")

    def test_a_program_that_fails_after_its_tests_passed_counts_as_a_failure(self):
        passed = PROGRAM.replace('failures="1"', 'failures="0"').replace('<failure message="no"/>', "")
        self.assertEqual(count(junit(("p", "fail")), p=passed), "skipped 1: no data\n3 passed, 1 failed, 1 skipped\n")


if __name__ == "__main__":
    unittest.main()
