"""Checkpoints that transformers saves after bitsandbytes has quantized: tests/data/peers/bnb-*, tests/golden/peers_bitsandbytes.json.

Weights are recorded as bitsandbytes' generic code multiplies them out in float32, [O, I] row-major, as CRC-32 (its AVX-512
code takes scales of other blocks where rows do not end with a block, as here with 96 columns); nll is of those weights in
float32. LLM.int8: weight * (SCB * (1 / 127)), where bitsandbytes has (weight * SCB) * (1 / 127): the last bit may differ.
"""

import os
import shutil
import zlib

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # a compilation for every shape

# pylint: disable=wrong-import-position
import bitsandbytes.functional as bnb
import numpy as np
import safetensors.torch
import torch
import transformers
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

from perplexity import nll_of_windows, windows_of
from provenance import ROOT, provenance, write_golden

TINY, PEERS, LENGTH = ROOT / "tests" / "data" / "tiny", ROOT / "tests" / "data" / "peers", 128

# name, source model, configuration
CHECKPOINTS = [
    ("bnb-nf4-double", "llama", {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}),
    ("bnb-nf4-tied", "llama-tied", {"bnb_4bit_quant_type": "nf4"}),
    ("bnb-int8", "qwen2", {}),
    ("bnb-fp4-bf16-storage", "qwen2", {"bnb_4bit_quant_type": "fp4", "bnb_4bit_quant_storage": "bfloat16"}),
]


def weights_of(folder):
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {}
    for name in tensors:
        if name.endswith(".SCB"):
            module = name.removesuffix(".SCB")
            scales = tensors[name].view(-1, 1) * torch.tensor(7.874015718698502e-3)
            weights[module] = tensors[module + ".weight"] * scales
        if not name.endswith(".weight.absmax"):
            continue
        weight = name.removesuffix(".absmax")
        parts = {key.removeprefix(weight + "."): value for key, value in tensors.items() if key.startswith(weight + ".")}
        state = bnb.QuantState.from_dict(parts, torch.device("cpu"))
        if state.quant_type == "fp4":
            state.code[8] = -0.0  # as GPUs compute it
        absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
        weights[weight.removesuffix(".weight")] = _dequantize_4bit_compute(
            tensors[weight].view(torch.uint8).reshape(-1), absmax, state.code, state.blocksize, state.shape, torch.float32)
    return weights


def main():
    torch.set_num_threads(1)
    ids = np.load(TINY / "ids.npy")
    results = {}
    for name, source, arguments in CHECKPOINTS:
        folder = PEERS / name
        shutil.rmtree(folder, ignore_errors=True)
        config = transformers.BitsAndBytesConfig(load_in_4bit=bool(arguments), load_in_8bit=not arguments, **arguments)
        model = transformers.AutoModelForCausalLM.from_pretrained(TINY / source, dtype="auto", quantization_config=config)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / "model.safetensors").chmod(0o644)
        weights = weights_of(folder)
        dense = transformers.AutoModelForCausalLM.from_pretrained(TINY / source, dtype="float32").eval()
        for module, weight in weights.items():
            dense.get_submodule(module).weight.data.copy_(weight)
        results[name] = {
            "source": f"tests/data/tiny/{source}", "ids": "tests/data/tiny/ids.npy", "seq_len": LENGTH,
            "nll": nll_of_windows(dense, windows_of(ids, LENGTH)).mean(),
            "weights_crc32": {module: zlib.crc32(weight.contiguous().numpy().tobytes())
                              for module, weight in sorted(weights.items())},
        }
        print(name, results[name]["nll"], (folder / "model.safetensors").stat().st_size, flush=True)
    write_golden("peers_bitsandbytes", {
        "made_by": provenance("bitsandbytes", "torch", "transformers", "safetensors"), "results": results})


if __name__ == "__main__":
    main()
