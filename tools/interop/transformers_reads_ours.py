"""transformers, with bitsandbytes and with compressed-tensors, on the CPU in float32, reads our nf4, fp4, LLM.int8 and W8A8.

    python tools/interop/transformers_reads_ours.py      after tools/build; needs torch, transformers, bitsandbytes,
                                                         compressed-tensors, accelerate

nll over 16 windows of 512 ids: the peer's forward pass against `nibble evaluate` of the same folder, 1e-3 relative.
weights: bitsandbytes' own dequantization of every layer against `nibble export -f dense --dtype f16`, bit for bit; LLM.int8:
integers and SCB of every layer against what bitsandbytes makes of the original. Its nll is that of quantized activations.
"""

import pathlib
import tempfile

import numpy as np
import torch
import transformers
from nibble_program import ROOT, Score, nibble
from perplexity import nll_of_windows, windows_of

LENGTH, WINDOWS = 512, 16
MODEL = ROOT / "tests" / "data" / "bookworm-5m"
TEXT = ROOT / "tests" / "data" / "books.eval.sample.txt"
CASES = [("nf4", ["-m", "nf4"]), ("nf4 double-quantized", ["-m", "nf4", "--double-quant"]), ("fp4", ["-m", "fp4"]),
         ("LLM.int8", ["--scheme", "llm-int8"]),
         ("W8A8", ["-m", "rtn", "--scheme", "w8a8"]),
         ("W8A8 smoothquant", ["-m", "smoothquant", "-d", TEXT, "--seq-len", 256, "--samples", 8])]


def compare_weights(score, name, peer, folder):
    import bitsandbytes.functional as F
    nibble("export", folder / "quantized", "-f", "dense", "--dtype", "f16", "-o", folder / "dense")
    dense = transformers.AutoModelForCausalLM.from_pretrained(folder / "dense", dtype="float16").state_dict()
    layers = [(key, module) for key, module in peer.named_modules() if type(module).__name__ == "Linear4bit"]
    same = [key for key, module in layers
            if torch.equal(F.dequantize_4bit(module.weight.data, module.weight.quant_state).half(), dense[key + ".weight"])]
    score.check(f"{name}: weights", layers and len(same) == len(layers), f"{len(same)} of {len(layers)} layers equal bit for bit")


def compare_integers(score, name, peer):
    config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(MODEL, quantization_config=config,
                                                               device_map="cpu").state_dict()
    ours = peer.state_dict()
    keys = [key for key in theirs if key.endswith(".SCB") or theirs[key].dtype == torch.int8]
    same = [key for key in keys if torch.equal(theirs[key], ours[key])]
    score.check(f"{name}: weights", keys and len(same) == len(keys), f"{len(same)} of {len(keys)} tensors equal bit for bit")


def check(score, name, options, ids, folder):
    np.save(folder / "ids.npy", ids[:WINDOWS * LENGTH])
    windows = windows_of(ids, LENGTH, WINDOWS)
    nibble("quantize", MODEL, "-o", folder / "quantized", *options)
    ours = nibble("evaluate", folder / "quantized", "-d", folder / "ids.npy", "--seq-len", LENGTH)["nll"]
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder / "quantized", dtype=torch.float32,
                                                             device_map="cpu").eval()
    if name == "LLM.int8":
        compare_integers(score, name, peer)
    elif "W8A8" not in name:
        compare_weights(score, name, peer, folder)
    score.relative(f"{name}: nll", ours, nll_of_windows(peer, windows).mean(), 1e-3)


def main():
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    ids = np.array(tokenizer(TEXT.read_text(encoding="utf-8"))["input_ids"], np.uint16)
    score = Score()
    for name, options in CASES:
        with tempfile.TemporaryDirectory() as folder:
            check(score, name, options, ids, pathlib.Path(folder))
    score.exit()


if __name__ == "__main__":
    main()
