"""Bytes of bitsandbytes' own quantization to 4 bits and to 8 (LLM.int8) on the CPU: tests/golden/bitsandbytes.json.

Weights: the matrix of tools/golden/rtn.py with K columns; "long", 2^21 + 5 values of the same generator, which give more
absmax than PyTorch sums at once; layers of tests/data/bookworm-5m. One thread: with more, PyTorch adds up 32,768 values
and more in pieces, and the mean of absmax may end in another bit. Arrays are recorded as CRC-32, the offset and the maps
by their bits. Weights are multiplied out by bitsandbytes' generic code: its AVX-512 code takes scales of other blocks where
rows do not end with a block. Their -0 are made +0: GPUs have them elsewhere.
"""

import os
import zlib

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # a compilation for every shape

# pylint: disable=wrong-import-position
import bitsandbytes.functional as bnb
import bitsandbytes.nn as bnb_nn
import numpy as np
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from safetensors import safe_open

from provenance import ROOT, provenance, write_golden
from rtn import matrix

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
LAYERS = ("model.layers.0.self_attn.k_proj.weight", "model.layers.2.mlp.down_proj.weight",
          "model.layers.5.self_attn.q_proj.weight")


def long_matrix():
    count = (1 << 21) + 5
    state, values = 12345, np.empty(count, np.float32)
    for i in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values[i] = (state >> 8) - (1 << 23)
    return values.reshape(1, count) * np.float32(2.0 ** -23)


def bits(array):
    return f"{zlib.crc32(np.ascontiguousarray(array).tobytes()):08x}"


def golden(source, W, kind, block, double):
    packed, state = bnb.quantize_4bit(torch.from_numpy(W), blocksize=block, compress_statistics=double, quant_type=kind)
    absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset if double else state.absmax
    weights = _dequantize_4bit_compute(packed.reshape(-1), absmax, state.code, block, W.shape, torch.float32)
    case = {"source": source, "kind": kind, "block": block, "double": double, "weight": bits(packed.numpy()),
            "absmax": bits(state.absmax.numpy()), "weights": bits((weights + 0.0).numpy())}
    if double:
        case["nested_absmax"] = bits(state.state2.absmax.numpy())
        case["offset"] = f"{int(state.offset.numpy().view(np.uint32)):08x}"
    tensors = state.as_dict(packed=True)
    case["quant_state"] = bytes(tensors["quant_state.bitsandbytes__" + kind].tolist()).decode()
    return case


def golden_int8(source, W):
    layer = bnb_nn.Int8Params(torch.from_numpy(W), requires_grad=False).to("cpu")
    return {"source": source, "weight": bits(layer.CB.numpy()), "SCB": bits(layer.SCB.numpy())}


def main():
    torch.set_num_threads(1)
    results = []
    both = [(kind, double) for kind in ("nf4", "fp4") for double in (False, True)]
    for K in (64, 203):
        results += [golden(f"rtn {K}", matrix(K), kind, block, double) for kind, double in both for block in BLOCKS]
    int8 = [golden_int8(f"rtn {K}", matrix(K)) for K in (64, 203)]
    results += [golden("long", long_matrix(), kind, 32, double) for kind, double in both]
    with safe_open(ROOT / "tests" / "data" / "bookworm-5m" / "model.safetensors", "np") as file:
        for name in LAYERS:
            W = file.get_tensor(name).astype(np.float32)
            results += [golden(name, W, kind, block, double) for kind, double in both for block in (64, 256)]
            int8.append(golden_int8(name, W))
    maps = {"nf4": bits(bnb.get_4bit_type("nf4", device="cpu").numpy()),
            "fp4": bits(bnb.get_4bit_type("fp4", device="cpu").numpy()), "dynamic": bits(bnb.create_dynamic_map().numpy())}
    write_golden("bitsandbytes", {"made_by": provenance("bitsandbytes", "torch", "numpy"), "maps": maps, "results": results,
                                  "int8": int8})


if __name__ == "__main__":
    main()
