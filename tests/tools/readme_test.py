"""The tables of README.md are what the program prints: readme_test.py PROGRAM."""

import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLES = ("methods", "formats", "architectures")


class Readme(unittest.TestCase):
    program = None

    def test_its_tables_are_the_programs(self):
        for table in TABLES:
            with self.subTest(table=table):
                command = f"nibble list {table} --markdown"
                block = re.search(rf"<!-- {command} -->\n(.*?)\n<!-- / -->", README, re.S)
                self.assertIsNotNone(block, f"no block <!-- {command} --> in README.md")
                run = subprocess.run([self.program, *command.split()[1:]], capture_output=True, text=True, check=True)
                self.assertEqual(block[1].strip(), run.stdout.strip(),
                                 f"README.md: put the output of `{command}` between the markers (tools/update-readme)")

    def test_the_links_to_files_lead_somewhere(self):
        for target in re.findall(r"\]\(([^)#:]+)\)", README):
            self.assertTrue((ROOT / target).exists(), f"README.md links to {target}")


if __name__ == "__main__":
    Readme.program = sys.argv.pop(1)
    unittest.main()
