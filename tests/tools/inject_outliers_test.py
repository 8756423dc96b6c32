"""tools/inject-outliers changes activations, never the function: inject_outliers_test.py PROGRAM."""

import json
import math
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
LINEARS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")


def inject(model, folder, *options):
    command = [sys.executable, ROOT / "tools" / "inject-outliers", model, folder, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def header_of(path):
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        return json.loads(file.read(size)), 8 + size


def values_of(folder):
    """Tensor name -> rows of values (a vector: rows of one), of every safetensors file."""
    tensors = {}
    for path in folder.glob("*.safetensors"):
        header, start = header_of(path)
        content = path.read_bytes()[start:]
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            data = content[slice(*tensor["data_offsets"])]
            if tensor["dtype"] == "BF16":
                data = b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2))
            form = "e" if tensor["dtype"] == "F16" else "f"
            values = struct.unpack(f"<{len(data) // struct.calcsize(form)}{form}", data)
            width = math.prod(tensor["shape"][1:])
            tensors[name] = [values[i:i + width] for i in range(0, len(values), width)]
    return tensors


def factors(original, variant):
    """Index -> factor of the rows that changed as a whole; None where elements of one row disagree."""
    changed = {}
    for i, (before, after) in enumerate(zip(original, variant)):
        ratios = {b / a for a, b in zip(before, after) if a}
        if ratios - {1}:
            changed[i] = ratios.pop() if len(ratios) == 1 else None
    return changed


def transposed(rows):
    return list(zip(*rows))


def split_into_shards(model, folder):
    """The same checkpoint in two files with an index."""
    folder.mkdir()
    shutil.copyfile(model / "config.json", folder / "config.json")
    header, start = header_of(model / "model.safetensors")
    content = (model / "model.safetensors").read_bytes()[start:]
    header.pop("__metadata__", None)
    names, weight_map, total = sorted(header), {}, 0
    for i, part in enumerate((names[0::2], names[1::2]), 1):
        file, pieces, places = f"model-{i:05}-of-00002.safetensors", [], {}
        for name in part:
            pieces.append(content[slice(*header[name]["data_offsets"])])
            end = sum(map(len, pieces))
            places[name] = {**header[name], "data_offsets": [end - len(pieces[-1]), end]}
            weight_map[name] = file
        text = json.dumps(places).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(pieces))
        total += sum(map(len, pieces))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


class InjectOutliers(unittest.TestCase):
    program = None

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)

    def make(self, model, *options):
        variant = self.folder / f"variant{len(list(self.folder.iterdir()))}"
        run = inject(model, variant, *options)
        self.assertEqual(run.returncode, 0, run.stderr)
        return variant

    def nll(self, model, dataset):
        command = [self.program, "evaluate", model, "-d", dataset, "--seq-len", "128", "--limit", "512", "--products", "float", "--json", "-q"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        return json.loads(run.stdout)["nll"]

    # Products with powers of two are exact: only threads that add in another order could move the last bits.
    def test_the_function_stays(self):
        cases = (("bookworm-5m", "books.eval.sample.txt", ["--dtype", "F32"]),
                 ("bookworm-5m", "books.eval.sample.txt", ["--dtype", "F32", "--inner"]),
                 ("tiny/llama-biases", "tiny/ids.npy", ["--dtype", "F32", "--inner"]),
                 ("tiny/qwen2", "tiny/ids.npy", ["--inner"]),
                 ("tiny/qwen3", "tiny/ids.npy", ["--inner"]))
        for name, dataset, options in cases:
            with self.subTest(model=name, options=options):
                variant = self.make(DATA / name, *options)
                self.assertAlmostEqual(self.nll(variant, DATA / dataset), self.nll(DATA / name, DATA / dataset), delta=1e-6)

    def test_norms_go_up_and_the_columns_behind_them_down_in_the_same_channels_of_every_block(self):
        model = DATA / "tiny/qwen2"
        before = values_of(model)
        after = values_of(self.make(model, "--share", "0.05", "--factors", "32", "64", "--seed", "3"))
        channels = factors(before["model.layers.0.input_layernorm.weight"], after["model.layers.0.input_layernorm.weight"])
        self.assertEqual(len(channels), round(0.05 * len(before["model.norm.weight"])))
        self.assertLessEqual(set(channels.values()), {32, 64})
        inverse = {channel: 1 / factor for channel, factor in channels.items()}
        self.assertEqual(before.keys(), after.keys())
        for name in before:
            module = name.removesuffix(".weight").split(".", 3)[-1]
            with self.subTest(tensor=name):
                if module in NORMS:
                    self.assertEqual(factors(before[name], after[name]), channels)
                elif module in LINEARS:
                    self.assertEqual(factors(transposed(before[name]), transposed(after[name])), inverse)
                else:
                    self.assertEqual(before[name], after[name])

    def test_inner_rows_of_v_meet_the_columns_of_o_that_they_feed(self):
        model = DATA / "tiny/qwen2"
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        group = config["num_attention_heads"] // config["num_key_value_heads"]
        self.assertGreater(group, 1)
        before, after = values_of(model), values_of(self.make(model, "--inner"))
        hidden = factors(before["model.layers.1.input_layernorm.weight"], after["model.layers.1.input_layernorm.weight"])

        def rows(module):  # of a column that the norm's factors left alone
            name = f"model.layers.1.{module}.weight"
            column = next(k for k in range(len(before[name][0])) if k not in hidden)
            return factors([[row[column]] for row in before[name]], [[row[column]] for row in after[name]])

        def columns(module):
            name = f"model.layers.1.{module}.weight"
            return factors(transposed(before[name]), transposed(after[name]))

        values = rows("self_attn.v_proj")
        self.assertTrue(values)
        fed = {(row // head * group + h) * head + row % head: 1 / factor
               for row, factor in values.items() for h in range(group)}
        self.assertEqual(columns("self_attn.o_proj"), fed)
        ups = rows("mlp.up_proj")
        self.assertTrue(ups)
        self.assertEqual(columns("mlp.down_proj"), {row: 1 / factor for row, factor in ups.items()})
        self.assertFalse(rows("mlp.gate_proj"))

    def test_shards_keep_their_places_and_give_the_same_tensors(self):
        shards = self.folder / "shards"
        split_into_shards(DATA / "tiny/qwen2", shards)
        whole, parts = self.folder / "whole", self.folder / "parts"
        for model, folder in ((DATA / "tiny/qwen2", whole), (shards, parts)):
            self.assertEqual(inject(model, folder, "--inner").returncode, 0)
        self.assertEqual(values_of(parts), values_of(whole))
        self.assertEqual(sorted(p.name for p in parts.iterdir()), sorted(p.name for p in shards.iterdir()))
        self.assertEqual(json.loads((parts / "model.safetensors.index.json").read_text(encoding="utf-8")),
                         json.loads((shards / "model.safetensors.index.json").read_text(encoding="utf-8")))

    def test_the_same_seed_gives_the_same_bytes(self):
        first, second, other = (self.folder / name for name in ("first", "second", "other"))
        for folder, seed in ((first, "1"), (second, "1"), (other, "2")):
            self.assertEqual(inject(DATA / "tiny/qwen2", folder, "--seed", seed).returncode, 0)
        read = [(folder / "model.safetensors").read_bytes() for folder in (first, second, other)]
        self.assertEqual(read[0], read[1])
        self.assertNotEqual(read[0], read[2])

    def test_f32_widens_the_checkpoint_and_says_so_in_the_config(self):
        variant = self.make(DATA / "bookworm-5m", "--dtype", "F32")
        header, _ = header_of(variant / "model.safetensors")
        self.assertEqual({tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"}, {"F32"})
        self.assertEqual(json.loads((variant / "config.json").read_text(encoding="utf-8"))["torch_dtype"], "float32")
        self.assertEqual((variant / "tokenizer.json").read_bytes(), (DATA / "bookworm-5m/tokenizer.json").read_bytes())

    def expect_refusal(self, model, message, *options):
        run = inject(model, self.folder / "variant", *options)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn(message, run.stderr)
        self.assertEqual(list(self.folder.glob("variant*")), [])

    def test_values_that_f16_does_not_hold_are_refused_and_leave_nothing(self):
        self.expect_refusal(DATA / "bookworm-5m", "scaled values are not exact in F16; --dtype F32 holds them")

    def test_other_architectures_are_refused(self):
        self.expect_refusal(DATA / "tiny/gpt2", "model_type 'gpt2'")

    def test_a_factor_that_rounds_is_refused(self):
        self.expect_refusal(DATA / "tiny/qwen2", "3 is no power of two", "--factors", "3")

    def test_a_missing_model_is_named(self):
        self.expect_refusal(self.folder / "absent", "absent/config.json: not found")

    def test_an_existing_folder_is_not_touched(self):
        variant = self.make(DATA / "tiny/qwen2")
        content = (variant / "model.safetensors").read_bytes()
        run = inject(DATA / "tiny/qwen2", variant, "--seed", "5")
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("exists already", run.stderr)
        self.assertEqual((variant / "model.safetensors").read_bytes(), content)


if __name__ == "__main__":
    InjectOutliers.program = sys.argv.pop(1)
    unittest.main()
