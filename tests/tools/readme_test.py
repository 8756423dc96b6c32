"""The tables of README.md are what the program prints: readme_test.py PROGRAM."""

import json
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLES = ("methods", "formats", "architectures")
MATRIX = "tools/interop/matrix.py"


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

    def test_its_matrix_is_that_of_the_results(self):
        block = re.search(rf"<!-- {MATRIX} -->\n(.*?)\n<!-- / -->", README, re.S)
        self.assertIsNotNone(block, f"no block <!-- {MATRIX} --> in README.md")
        run = subprocess.run([sys.executable, ROOT / MATRIX], capture_output=True, text=True, check=True)
        self.assertEqual(block[1].strip(), run.stdout.strip(), "README.md: run tools/update-readme")

    def test_every_program_agrees_with_ours(self):
        files = list((ROOT / "tools" / "interop" / "results").glob("*.json"))
        self.assertTrue(files)
        for file in files:
            part = json.loads(file.read_text(encoding="utf-8"))
            program = part["program"]
            self.assertIn("command", part["made_by"], program)
            for cell in part["cells"]:
                with self.subTest(program=program, case=cell["case"]):
                    ratio = cell["nibble"] / cell["program"]
                    if "dense" in cell:
                        ratio -= cell["dense"]["nibble"] / cell["dense"]["program"] - 1
                    self.assertLessEqual(abs(ratio - 1), 1.001 * cell["limit"])

    def test_the_links_to_files_lead_somewhere(self):
        for target in re.findall(r"\]\(([^)#:]+)\)", README):
            self.assertTrue((ROOT / target).exists(), f"README.md links to {target}")


if __name__ == "__main__":
    Readme.program = sys.argv.pop(1)
    unittest.main()
