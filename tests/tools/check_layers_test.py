"""tools/check_layers.py finds each kind of breach: one made-up repository a test, with one breach in it."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECK = pathlib.Path(__file__).resolve().parents[2] / "tools" / "check_layers.py"
README = """
<!-- layers -->
| target | files | may use |
|---|---|---|
| `low` | `src/low/` | |
| `file` | `src/high/file.*` | `low` |
| `high` | `src/high/` | `file` |
| `tests` | `tests/` `tools/` | anything |
<!-- /layers -->
"""
SOUND = {
    "README.md": README,
    "src/low/a.h": "#pragma once\n#include <vector>\n",
    "src/low/CMakeLists.txt": "nibble_module(low)\n",
    "src/high/file.h": '#include "src/low/a.h"\n',
    "src/high/top.cc": '#include "src/high/file.h"\n#include "src/low/a.h"\n',
    "src/high/CMakeLists.txt": "nibble_module(high\n  SOURCES top.cc\n  DEPENDS file low)\n",
    "tests/top_test.cc": '#include "src/high/file.h"\n',
}


def check(**changes):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {**SOUND, **changes.get("files", {})}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
        run = subprocess.run([sys.executable, CHECK, "--root", root], capture_output=True, text=True, check=False)
        return run.returncode, run.stdout + run.stderr


class CheckLayers(unittest.TestCase):
    def expect(self, files, message):
        status, output = check(files=files)
        self.assertEqual(status, 1, output)
        self.assertIn(message, output)
        self.assertIn("1 problems", output)

    def test_a_sound_tree_passes(self):
        status, output = check()
        self.assertEqual(status, 0, output)

    def test_an_include_upwards_is_found(self):
        self.expect({"src/low/a.h": '#include "src/high/file.h"\n'},
                    "src/low/a.h:1: layer 'low' may not include \"src/high/file.h\" (layer 'file')")

    def test_two_layers_in_one_folder_are_told_apart(self):
        self.expect({"src/high/top.h": "", "src/high/file.h": '#include "src/high/top.h"\n'},
                    "layer 'file' may not include \"src/high/top.h\" (layer 'high')")

    def test_an_include_of_tests_is_found(self):
        self.expect({"tests/data.h": "", "src/high/top.cc": '#include "tests/data.h"\n'},
                    "layer 'high' may not include \"tests/data.h\"")

    def test_an_include_that_is_no_repository_path_is_found(self):
        self.expect({"src/low/b.cc": '#include "a.h"\n'}, 'src/low/b.cc:1: "a.h" is no repository path')

    def test_a_dependency_upwards_is_found(self):
        self.expect({"src/low/CMakeLists.txt": "nibble_module(low DEPENDS high)\n"},
                    "layer 'low' may not depend on 'high'")

    def test_a_source_in_the_wrong_target_is_found(self):
        self.expect({"src/low/CMakeLists.txt": "nibble_module(low SOURCES b.cc)\n", "src/low/b.cc": "",
                     "README.md": README.replace("`src/low/`", "`src/low/a.*`")
                                                            .replace("`src/high/` |", "`src/high/` `src/low/` |")},
                    "b.cc is compiled into 'low', but the layer table puts it in 'high'")

    def test_a_file_outside_the_table_is_found(self):
        self.expect({"kernels/x.cc": ""}, "kernels/x.cc: no row of the layer table holds this file")

    def test_a_table_with_a_row_that_uses_a_later_one_is_refused(self):
        status, output = check(files={"README.md": README.replace("| `low` | `src/low/` | |",
                                                                  "| `low` | `src/low/` | `high` |")})
        self.assertEqual(status, 1, output)
        self.assertIn("no row above it defines", output)


if __name__ == "__main__":
    unittest.main()
