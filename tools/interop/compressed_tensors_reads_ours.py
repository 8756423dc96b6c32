"""transformers + compressed-tensors, on the CPU in float32, read what `nibble quantize` writes.

    python tools/interop/compressed_tensors_reads_ours.py [TEXT [CASE]]      after tools/build; needs torch, transformers,
                                              compressed-tensors, accelerate; CASE: only those whose name has it

nll      over 16 windows of 512 ids: the peer's forward pass against `nibble evaluate` of the same folder, 1e-4 relative
         (FP4: the peer rounds its weights to BF16, so that it is run on our dense BF16 weights too: the same there)
logits   the peer's model against the same model from `nibble export -f dense`, 1e-3
weights  where the peer keeps no float32 path: transformers 5.23 refuses its own asymmetric files unless dequantize=True,
         which rounds code - zero times scale to the scale's type; then the dense export is of that type, bit for bit
"""

import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers

from nibble_program import ROOT, Score, nibble
from perplexity import nll_of_windows, windows_of

LENGTH, WINDOWS = 512, 16
MODEL = ROOT / "tests" / "data" / "bookworm-5m"
TEXT = ROOT / "tests" / "data" / "books.eval.sample.txt"
TINY = ROOT / "tests" / "data" / "tiny"

# name, model, options of quantize; tiny models run on tests/data/tiny/ids.npy
CASES = [
    ("bookworm W4 g128 asymmetric", MODEL, ["-b", 4, "-g", 128]),
    ("bookworm W4 g128 symmetric", MODEL, ["-b", 4, "-g", 128, "--symmetric"]),
    ("bookworm W4 g64 symmetric", MODEL, ["-b", 4, "-g", 64, "--symmetric"]),
    ("bookworm W8 g128 asymmetric", MODEL, ["-b", 8, "-g", 128]),
    ("bookworm W8 channel symmetric", MODEL, ["-b", 8, "-g", -1, "--symmetric"]),
    ("bookworm W8 channel asymmetric", MODEL, ["-b", 8, "-g", -1]),
    ("qwen2 BF16 W4 g32 symmetric", TINY / "qwen2", ["-b", 4, "-g", 32, "--symmetric"]),
    ("qwen3 BF16 W4 g32 asymmetric", TINY / "qwen3", ["-b", 4, "-g", 32]),
    ("llama-biases F16 W8 g32 symmetric", TINY / "llama-biases", ["-b", 8, "-g", 32, "--symmetric"]),
    ("mistral F16 W4 g32 symmetric", TINY / "mistral", ["-b", 4, "-g", 32, "--symmetric"]),
    ("qwen2-tied F32 W4 g16 symmetric", TINY / "qwen2-tied", ["-b", 4, "-g", 16, "--symmetric"]),
]

CALIBRATION = ["-d", TEXT, "--seq-len", 256, "--samples", 8]
# name, model, options of quantize, whether activations are quantized
FLOATS = [
    ("bookworm FP8 dynamic", MODEL, ["--scheme", "fp8-dynamic"], True),
    ("bookworm FP8 static", MODEL, ["--scheme", "fp8", "-m", "rtn", *CALIBRATION], True),
    ("bookworm FP8 block", MODEL, ["--scheme", "fp8-block", "-f", "compressed-tensors"], True),
    ("bookworm NVFP4A16", MODEL, ["--scheme", "nvfp4a16"], False),
    ("bookworm NVFP4", MODEL, ["--scheme", "nvfp4", "-m", "rtn", *CALIBRATION], True),
    ("bookworm MXFP4A16", MODEL, ["--scheme", "mxfp4a16"], False),
    ("qwen3 BF16 FP8 dynamic", TINY / "qwen3", ["--scheme", "fp8-dynamic"], True),
    ("llama-biases F16 NVFP4A16", TINY / "llama-biases", ["--scheme", "nvfp4a16"], False),
    ("qwen3 BF16 MXFP4A16", TINY / "qwen3", ["--scheme", "mxfp4a16"], False),
]


def load(folder, dequantize=False, dtype="float32"):
    config = transformers.CompressedTensorsConfig(dequantize=dequantize)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=config).eval()


def logits(model, windows):
    with torch.inference_mode():
        return model(torch.as_tensor(windows.astype(np.int64))).logits


def check(score, name, model, options, ids, folder):
    length = LENGTH if model == MODEL else 128
    np.save(folder / "ids.npy", ids[:WINDOWS * LENGTH])
    windows = windows_of(ids, length, WINDOWS)
    nibble("quantize", model, "-o", folder / "quantized", "-f", "compressed-tensors", *options)
    ours = nibble("evaluate", folder / "quantized", "-d", folder / "ids.npy", "--seq-len", length,
                  "--limit", windows.size)["nll"]

    symmetric = "--symmetric" in options
    peer = load(folder / "quantized", dequantize=not symmetric)
    score.relative(f"{name}: nll", ours, nll_of_windows(peer, windows).mean(), 1e-4)

    dtype = "f32" if symmetric else "bf16" if "BF16" in name else "f16"
    nibble("export", folder / "quantized", "-f", "dense", "--dtype", dtype, "-o", folder / "dense")
    dense = transformers.AutoModelForCausalLM.from_pretrained(folder / "dense", dtype="float32").eval()
    difference = (logits(peer, windows[:2]) - logits(dense, windows[:2])).abs().max().item()
    score.check(f"{name}: logits", difference <= 1e-3, f"largest difference {difference:.1e} <= 1e-3")
    theirs, mine = peer.state_dict(), dense.state_dict()
    same = [key for key in mine if key in theirs and torch.equal(mine[key], theirs[key])]
    score.check(f"{name}: weights", len(same) == len(mine), f"{len(same)} of {len(mine)} tensors equal bit for bit ({dtype})")


def check_floats(score, name, model, options, has_inputs, ids, folder):
    length = LENGTH if model == MODEL else 128
    np.save(folder / "ids.npy", ids[:WINDOWS * LENGTH])
    windows = windows_of(ids, length, WINDOWS)
    nibble("quantize", model, "-o", folder / "quantized", *options)
    ours = nibble("evaluate", folder / "quantized", "-d", folder / "ids.npy", "--seq-len", length,
                  "--limit", windows.size)["nll"]
    if "FP4" not in name:
        score.relative(f"{name}: nll", ours, nll_of_windows(load(folder / "quantized"), windows).mean(), 1e-4)
        return
    if has_inputs:  # its FP4 layers run in BF16 alone
        peer = load(folder / "quantized", dtype="bfloat16")
        score.relative(f"{name}: nll in BF16", ours, nll_of_windows(peer, windows).mean(), 5e-3)
        return
    theirs = nll_of_windows(load(folder / "quantized", dequantize=True), windows).mean()
    score.relative(f"{name}: nll", ours, theirs, 1e-3)
    nibble("export", folder / "quantized", "-f", "dense", "--dtype", "bf16", "-o", folder / "dense")
    dense = transformers.AutoModelForCausalLM.from_pretrained(folder / "dense", dtype="float32").eval()
    theirs_dense = nll_of_windows(dense, windows).mean()
    score.relative(f"{name}: nll of our BF16 weights", theirs_dense, theirs, 1e-6)


def main():
    text = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else TEXT
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    ids_of_text = np.array(tokenizer(text.read_text(encoding="utf-8"))["input_ids"], np.uint16)
    tiny_ids = np.load(TINY / "ids.npy")
    score = Score()
    chosen = [case for case in CASES if sys.argv[2:] == [] or sys.argv[2] in case[0]]
    for name, model, options in chosen:
        with tempfile.TemporaryDirectory() as folder:
            check(score, name, model, options, ids_of_text if model == MODEL else tiny_ids, pathlib.Path(folder))
    for name, model, options, has_inputs in FLOATS:
        if sys.argv[2:] == [] or sys.argv[2] in name:
            with tempfile.TemporaryDirectory() as folder:
                check_floats(score, name, model, options, has_inputs, ids_of_text if model == MODEL else tiny_ids,
                             pathlib.Path(folder))
    score.exit()


if __name__ == "__main__":
    main()
