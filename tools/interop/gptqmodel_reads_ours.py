"""gptqmodel, on the CPU, reads what `nibble quantize` writes as gptq and awq.

    python tools/interop/gptqmodel_reads_ours.py [TEXT [CASE]]      after tools/build; needs torch, transformers, gptqmodel;
                                                                    CASE: only those whose name has it

weights  the peer's own dequantized weights against `nibble export -f dense --dtype f16`, bit for bit (one rounding)
nll      over 16 windows of 512 ids: the peer's forward pass, in F16, the only type its CPU kernels have, against
         `nibble evaluate` of the same folder, 1e-3 relative
"""

import contextlib
import pathlib
import sys
import tempfile

from nibble_program import ROOT, Score, nibble

# pylint: disable=wrong-import-order
import gptqmodel_reference
import numpy as np
import torch
import transformers

from perplexity import nll_of_windows, windows_of

LENGTH, WINDOWS = 512, 16
MODEL = ROOT / "tests" / "data" / "bookworm-5m"
TEXT = ROOT / "tests" / "data" / "books.eval.sample.txt"
PEERS = ROOT / "tests" / "data" / "peers"

CASES = [
    *[(f"gptq W{bits} g128 {kind}", MODEL, ["-f", "gptq", "-b", bits, "-g", 128, f"--{kind}"])
      for bits in (2, 3, 4, 8) for kind in ("symmetric", "asymmetric")],
    ("gptq W4 g32 symmetric", MODEL, ["-f", "gptq", "-b", 4, "-g", 32, "--symmetric"]),
    ("gptq W3 g64 asymmetric", MODEL, ["-f", "gptq", "-b", 3, "-g", 64]),
    ("gptq W4 channel symmetric", MODEL, ["-f", "gptq", "-b", 4, "-g", -1, "--symmetric"]),
    ("gptq W4 act-order, exported again", PEERS / "gptqmodel-int4-g32-actorder", None),
    ("awq W4 g128", MODEL, ["-f", "awq", "-b", 4, "-g", 128]),
    ("awq W4 g32", MODEL, ["-f", "awq", "-b", 4, "-g", 32]),
]


def check(score, name, model, options, ids, folder):
    length = LENGTH if model == MODEL else 128
    np.save(folder / "ids.npy", ids[:WINDOWS * LENGTH])
    windows = windows_of(ids, length, WINDOWS)
    if options is None:
        nibble("export", model, "-f", "gptq", "-o", folder / "quantized")
    else:
        nibble("quantize", model, "-o", folder / "quantized", *options)
    nibble("export", folder / "quantized", "-f", "dense", "--dtype", "f16", "-o", folder / "dense")
    ours = nibble("evaluate", folder / "quantized", "-d", folder / "ids.npy", "--seq-len", length,
                  "--limit", windows.size)["nll"]

    with contextlib.redirect_stdout(sys.stderr):
        weights, peer = gptqmodel_reference.weights(folder / "quantized", awq="awq" in name)
    dense = gptqmodel_reference.tensors(folder / "dense")
    same = [module for module, weight in weights.items() if torch.equal(weight, dense[module + ".weight"])]
    score.check(f"{name}: weights", weights and len(same) == len(weights),
                f"{len(same)} of {len(weights)} layers equal bit for bit")
    with contextlib.redirect_stdout(sys.stderr):
        theirs = nll_of_windows(peer, windows).mean()
    score.relative(f"{name}: nll", ours, theirs, 1e-3)


def main():
    text = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else TEXT
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    ids_of_text = np.array(tokenizer(text.read_text(encoding="utf-8"))["input_ids"], np.uint16)
    tiny_ids = np.load(ROOT / "tests" / "data" / "tiny" / "ids.npy")
    score = Score()
    chosen = [case for case in CASES if sys.argv[2:] == [] or sys.argv[2] in case[0]]
    for name, model, options in chosen:
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(score, name, model, options, ids_of_text if model == MODEL else tiny_ids, pathlib.Path(folder))
            except (RuntimeError, ValueError, NotImplementedError) as error:
                score.check(name, False, str(error).strip().splitlines()[-1])
    score.exit()


if __name__ == "__main__":
    main()
