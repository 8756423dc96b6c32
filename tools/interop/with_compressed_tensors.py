"""transformers + compressed-tensors, on the CPU in float32, read what `nibble quantize` writes, and nibble what they wrote.

    python tools/interop/with_compressed_tensors.py [--keep] [CASE]      after tools/build; needs torch, transformers,
                                                                         compressed-tensors, accelerate, tokenizers

nll      over windows of ids: the peer's forward pass against `nibble evaluate` of the same folder, 1e-4 relative (of quantized
         activations, where a sum in another order moves a code: 1e-3, and what it does in BF16 alone: 5e-3)
logits   the peer's model against the same model from `nibble export -f dense`, 1e-3
weights  every tensor of both, bit for bit

transformers refuses its own asymmetric files unless dequantize=True, which rounds code - zero times scale to the scale's type;
then the dense export is of that type. FP4 is dequantized to BF16. Files of the peer's: tests/data/peers/ct-*, made by
tools/golden/peers_compressed_tensors.py.
"""

import json
import pathlib
import tempfile

import numpy as np
import tokenizers
import torch
import transformers

import small_models
from nibble_program import ROOT, nibble
from perplexity import nll_of_windows, windows_of
from score import READS, WRITES, Score

LENGTH, WINDOWS = 512, 4
MODEL = ROOT / "tests" / "data" / "bookworm-5m"
TEXT = ROOT / "tests" / "data" / "books.eval.sample.txt"
TINY = ROOT / "tests" / "data" / "tiny"
PEERS = ROOT / "tests" / "data" / "peers"
CALIBRATION = ["-d", TEXT, "--seq-len", 256, "--samples", 8]

# name, model, options of quantize
INTEGERS = [
    ("bookworm-5m W4 g128 asymmetric", MODEL, ["-b", 4, "-g", 128]),
    ("bookworm-5m W4 g128", MODEL, ["-b", 4, "-g", 128, "--symmetric"]),
    ("bookworm-5m W4 g128 gptq act-order", MODEL, ["-m", "gptq", "-b", 4, "-g", 128, "--symmetric", "--no-static-groups", *CALIBRATION]),
    ("bookworm-5m W3 g64", MODEL, ["-b", 3, "-g", 64, "--symmetric"]),
    ("bookworm-5m W2 g32", MODEL, ["-b", 2, "-g", 32, "--symmetric"]),
    ("bookworm-5m W8 g128 asymmetric", MODEL, ["-b", 8, "-g", 128]),
    ("bookworm-5m W8 channel", MODEL, ["-b", 8, "-g", -1, "--symmetric"]),
    ("bookworm-5m W8 channel asymmetric", MODEL, ["-b", 8, "-g", -1]),
    ("qwen2 W4 g32", "qwen2", ["-b", 4, "-g", 32, "--symmetric"]),
    ("tiny/qwen3 W4 g32 asymmetric", TINY / "qwen3", ["-b", 4, "-g", 32]),
    ("tiny/llama-biases W8 g32", TINY / "llama-biases", ["-b", 8, "-g", 32, "--symmetric"]),
    ("tiny/mistral W4 g32", TINY / "mistral", ["-b", 4, "-g", 32, "--symmetric"]),
]
# Also with quantized activations.
OTHERS = [
    ("bookworm-5m W8A8", MODEL, ["-m", "rtn", "--scheme", "w8a8"]),
    ("bookworm-5m W8A8 smoothquant", MODEL, ["-m", "smoothquant", *CALIBRATION]),
    ("bookworm-5m FP8 dynamic", MODEL, ["--scheme", "fp8-dynamic"]),
    ("bookworm-5m FP8 static", MODEL, ["--scheme", "fp8", "-m", "rtn", *CALIBRATION]),
    ("bookworm-5m FP8 block", MODEL, ["--scheme", "fp8-block"]),
    ("bookworm-5m FP8 dynamic gptq", MODEL, ["--scheme", "fp8-dynamic", "-m", "gptq", *CALIBRATION]),
    ("bookworm-5m NVFP4A16", MODEL, ["--scheme", "nvfp4a16"]),
    ("bookworm-5m NVFP4A16 gptq", MODEL, ["--scheme", "nvfp4a16", "-m", "gptq", *CALIBRATION]),
    ("bookworm-5m NVFP4", MODEL, ["--scheme", "nvfp4", "-m", "rtn", *CALIBRATION]),
    ("bookworm-5m MXFP4A16", MODEL, ["--scheme", "mxfp4a16"]),
    ("qwen2 W8A8", "qwen2", ["-m", "rtn", "--scheme", "w8a8"]),
    ("qwen2 FP8 dynamic", "qwen2", ["--scheme", "fp8-dynamic"]),
    ("tiny/llama-biases NVFP4A16", TINY / "llama-biases", ["--scheme", "nvfp4a16"]),
    ("tiny/qwen3 MXFP4A16", TINY / "qwen3", ["--scheme", "mxfp4a16"]),
]


def ids_of_text():
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    return np.array(tokenizer.encode(TEXT.read_text(encoding="utf-8"), add_special_tokens=False).ids, np.uint16)


def load(folder, dequantize=False, dtype="float32"):
    config = transformers.CompressedTensorsConfig(dequantize=dequantize)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=config).eval()


def load_dense(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def logits(model, windows):
    with torch.inference_mode():
        return model(torch.as_tensor(windows.astype(np.int64))).logits


class Case:
    """A quantized folder and the windows that both programs evaluate it on."""

    def __init__(self, model, folder, quantized):
        ids = ids_of_text() if model == MODEL else np.load(small_models.IDS)
        self.windows = windows_of(ids, LENGTH if model == MODEL else small_models.LENGTH, WINDOWS)
        self.folder, self.quantized = folder, quantized
        np.save(folder / "ids.npy", self.windows.ravel().astype(np.uint16))

    def ours(self, folder=None):
        return nibble("evaluate", folder or self.quantized, "-d", self.folder / "ids.npy", "--seq-len", self.windows.shape[1])["nll"]

    def nll(self, peer):
        return nll_of_windows(peer, self.windows).mean()

    def dense(self, dtype):
        folder = self.folder / f"dense-{dtype}"
        nibble("export", self.quantized, "-f", "dense", "--dtype", dtype, "-o", folder)
        return folder


def quantize(model, options, folder):
    source = small_models.make(model, folder / "source") if isinstance(model, str) else model
    nibble("quantize", source, "-o", folder / "quantized", "-f", "compressed-tensors", *options)
    return Case(model, folder, folder / "quantized")


def type_of_scales(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}[config.get("dtype") or config["torch_dtype"]]


def check_integers(score, name, case, symmetric):
    peer = load(case.quantized, dequantize=not symmetric)
    dtype = "f32" if symmetric else type_of_scales(case.quantized)
    dense = case.dense(dtype)

    def both_of_dense():
        return case.ours(dense), case.nll(load_dense(dense))

    score.cell("compressed-tensors", READS, name, (case.ours(), case.nll(peer)), 1e-4, both_of_dense)
    mine = load_dense(dense)
    difference = (logits(peer, case.windows[:2]) - logits(mine, case.windows[:2])).abs().max().item()
    score.check(f"{name}: logits", difference <= 1e-3, f"largest difference {difference:.1e} <= 1e-3")
    theirs, ours = peer.state_dict(), mine.state_dict()
    same = [key for key in ours if key in theirs and torch.equal(ours[key], theirs[key])]
    score.check(f"{name}: weights", len(same) == len(ours), f"{len(same)} of {len(ours)} tensors equal bit for bit ({dtype})")


def check_others(score, name, case):
    if "FP4" not in name:
        score.cell("compressed-tensors", READS, name, (case.ours(), case.nll(load(case.quantized))), 1e-3)
    elif "A16" not in name:  # its FP4 activations run in BF16 alone
        score.cell("compressed-tensors", READS, name, (case.ours(), case.nll(load(case.quantized, dtype="bfloat16"))), 5e-3)
    else:
        theirs = case.nll(load(case.quantized, dequantize=True))
        dense = case.dense("bf16")
        score.cell("compressed-tensors", READS, name, (case.ours(), theirs), 1e-4,
                   lambda: (case.ours(dense), case.nll(load_dense(dense))))


def check_theirs(score, name, folder, quantized):
    case = Case(None, folder, quantized)
    symmetric = "asymmetric" not in name
    dense = case.dense(type_of_scales(quantized))
    score.cell("compressed-tensors", WRITES, name, (case.ours(), case.nll(load(quantized, dequantize=not symmetric))), 1e-4,
               lambda: (case.ours(dense), case.nll(load_dense(dense))))


def main():
    torch.set_num_threads(1)
    score = Score("transformers + compressed-tensors", "transformers", "compressed-tensors", "torch")
    for name, model, options in [*INTEGERS, *OTHERS]:
        if not score.wants(f"{READS} {name}"):
            continue
        with score.case(name), tempfile.TemporaryDirectory() as temporary:
            case = quantize(model, options, pathlib.Path(temporary))
            if (name, model, options) in INTEGERS:
                check_integers(score, name, case, "--symmetric" in options)
            else:
                check_others(score, name, case)
    for quantized in sorted(PEERS.glob("ct-int*")):
        if score.wants(f"{WRITES} {quantized.name}"):
            with score.case(quantized.name), tempfile.TemporaryDirectory() as temporary:
                check_theirs(score, quantized.name, pathlib.Path(temporary), quantized)
    score.exit()


if __name__ == "__main__":
    main()
