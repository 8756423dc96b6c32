"""tools/gpu-check: gpu_check_test.py BUILD_TREE. A real pack, its program started in an empty root, and the order of stages."""

import importlib.machinery
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "gpu-check"
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "NIBBLE_OWN_TEST_DATA": "/tests/data"}


def load_tool():
    loader = importlib.machinery.SourceFileLoader("gpu_check", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


class Pack(unittest.TestCase):
    build = None

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name) / "gpu-check"
        subprocess.run([TOOL, "pack", cls.folder, "--build", cls.build, "--no-build", "--without-cuda"], check=True,
                       capture_output=True, text=True)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def test_it_is_small_and_says_what_it_is(self):
        size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        self.assertLess(size, 50 << 20)
        about = json.loads((self.folder / "pack.json").read_text(encoding="utf-8"))
        self.assertIn("gpu_test", about["tests"])
        with tarfile.open(self.folder / "programs.tar.gz") as archive:
            names = archive.getnames()
        self.assertIn("bin/nibble", names)
        self.assertFalse([name for name in names if re.search("libcuda|cublas|cusolver|nvidia", name)])

    def in_empty_root(self, *command):
        """Runs in a root that holds what was packed and nothing else."""
        return subprocess.run(["/lib/ld-linux-x86-64.so.2", "--library-path", "/lib", *command], capture_output=True, text=True,
                              env=ENVIRONMENT, preexec_fn=lambda: (os.chroot(self.folder), os.chdir("/")), check=False)

    @unittest.skipUnless(os.geteuid() == 0, "not root: no root of its own for the packed program")
    def test_its_programs_start_in_an_empty_root(self):
        with tarfile.open(self.folder / "programs.tar.gz") as archive:
            archive.extractall(self.folder)
        done = self.in_empty_root("/bin/nibble", "evaluate", "/tests/data/bookworm-5m", "-d",
                                  "/tests/data/books.eval.sample.txt", "--seq-len", "128", "--limit", "1024", "--json", "-q")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(json.loads(done.stdout)["perplexity"], 10)
        for test in json.loads((self.folder / "pack.json").read_text(encoding="utf-8"))["tests"]:
            done = self.in_empty_root(f"/bin/{test}")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_without_a_gpu_run_says_so(self):
        if shutil.which("nvidia-smi"):
            self.skipTest("there may be a GPU here")
        done = subprocess.run([self.folder / "gpu-check", "run"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("no GPU", done.stderr)


class Stages(unittest.TestCase):
    def setUp(self):
        self.tool = load_tool()
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.file = pathlib.Path(self.temporary.name) / "report.json"
        self.calls = []

    def stage(self, name, *verdicts):
        left = list(verdicts)

        def run(machine, report, seconds):
            self.calls.append((name, json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else None))
            verdict = left.pop(0)
            if isinstance(verdict, Exception):
                raise verdict
            return {"verdict": verdict}
        return run

    def test_each_is_written_before_the_next_and_done_once(self):
        report = {"stages": {}}
        stages = {"one": self.stage("one", "passed"), "two": self.stage("two", self.tool.Failure("broken"), "passed"),
                  "three": self.stage("three", "not run")}
        self.assertFalse(self.tool.run_stages(self.file, report, stages, None))
        self.assertEqual([name for name, _ in self.calls], ["one", "two", "three"])
        self.assertEqual(self.calls[1][1]["stages"]["one"]["verdict"], "passed")
        self.assertEqual(self.calls[2][1]["stages"]["two"], {"verdict": "failed", "output": ["broken"], "seconds": 0.0})
        again = json.loads(self.file.read_text(encoding="utf-8"))
        self.assertTrue(self.tool.run_stages(self.file, again, stages, None))
        self.assertEqual([name for name, _ in self.calls[3:]], ["two"])

    def test_losses_of_gpu_and_cpu_have_to_agree(self):
        folder = pathlib.Path(self.temporary.name)
        (folder / "model-w4").mkdir()
        (folder / "model-w4" / "nibble.json").touch()
        for on_gpu, verdict in ((4.0001, "passed"), (4.001, "failed")):
            machine = unittest.mock.Mock(folder=folder, data=folder)

            def run(seconds, *command, nll=on_gpu):
                on_cuda = command[command.index("--device") + 1] == "cuda"
                said = {"nll": nll if on_cuda else 4.0, "tokens_per_second": 1.0, "text": "a while ago"}
                return 0, json.dumps(said), ""
            machine.run = run
            result = self.tool.run_forward(machine, {}, 10)
            self.assertEqual(result["verdict"], verdict)
            self.assertTrue(result["models"]["w4"]["same_text"])

    def test_what_takes_too_long_is_ended(self):
        machine = self.tool.Machine.__new__(self.tool.Machine)
        machine.root, machine.loader, machine.environment = pathlib.Path("/"), [], dict(os.environ)
        status, out, _ = machine.run(0.2, "sh", "-c", "echo begun; sleep 60")
        self.assertEqual((status, out), (None, "begun\n"))
        self.assertEqual(self.tool.ended(status, out, "")["verdict"], "out of time")

    def test_a_stage_ends_within_eight_minutes(self):
        self.assertLess(self.tool.STAGE_SECONDS, 8 * 60)


if __name__ == "__main__":
    Pack.build = sys.argv.pop(1)
    unittest.main()
