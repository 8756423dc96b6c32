"""The peers' range rules, run by the peers: tests/golden/range_rules.json.

gptq    gptqmodel's Quantizer.find_params and quantize (the rule of IST-DASLab/gptq quant.py), F32
awq     gptqmodel's copy of AutoAWQ's pseudo_quantize_tensor, on F16 weights
q4_0    the gguf package's Q4_0

The matrix is that of tools/golden/rtn.py with K = 64; for awq it is rounded to F16. Groups of 32 columns; for q4_0 row 4 is multiplied by
2^24, as its scales would round to zero (ours never do). Bytes are little-endian, in hexadecimal: scales and weights as the peer computes them, zeros and codes U8.
"""

import os
import types

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# pylint: disable=wrong-import-position
import gguf
import numpy as np
import torch
from gptqmodel.looper.awq_processor import AWQProcessor
from gptqmodel.quantization.quantizer import Quantizer

from provenance import provenance, write_golden
from rtn import matrix

K, GROUP = 64, 32


def text(array):
    return np.ascontiguousarray(array).tobytes().hex()


def gptq(W, bits, symmetric):
    quantizer = Quantizer(types.SimpleNamespace(bits=bits, sym=symmetric, mse=0.0, group_size=GROUP))
    quantizer.configure(perchannel=True)
    groups = torch.from_numpy(W.reshape(-1, GROUP))
    quantizer.find_params(groups, weight=True)
    return {"scale_type": "F32", "scales": text(quantizer.scale.numpy()),
            "zeros": text(quantizer.zero.numpy().astype(np.uint8)), "weights": text(quantizer.quantize(groups).numpy())}


def awq(W, bits, symmetric):
    peer = types.SimpleNamespace(qcfg=types.SimpleNamespace(bits=bits, sym=symmetric, group_size=GROUP))
    weights, scales, zeros = AWQProcessor.pseudo_quantize_tensor(peer, torch.from_numpy(W.astype(np.float16)))
    assert scales.dtype == weights.dtype == torch.float16
    return {"scale_type": "F16", "scales": text(scales.numpy()), "zeros": text(zeros.numpy().astype(np.uint8)),
            "weights": text(weights.numpy())}


def q4_0(W):
    W = W.copy()
    W[4] *= np.float32(2.0 ** 24)
    blocks = gguf.quants.quantize(W, gguf.GGMLQuantizationType.Q4_0).reshape(-1, 18)
    codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return {"scale_type": "F16", "scales": text(blocks[:, :2]), "codes": text(codes),
            "weights": text(gguf.quants.dequantize(blocks.reshape(W.shape[0], -1), gguf.GGMLQuantizationType.Q4_0))}


def main():
    W = matrix(K)
    cases = [{"rule": name, "bits": bits, "symmetric": symmetric, **rule(W, bits, symmetric)}
             for name, rule, choices in (("gptq", gptq, (2, 3, 4, 8)), ("awq", awq, (4,)))
             for bits in choices for symmetric in (True, False)]
    cases.append({"rule": "q4_0", "bits": 4, "symmetric": True, **q4_0(W)})
    write_golden("range_rules", {"made_by": provenance("gptqmodel", "gguf", "torch", "numpy"), "K": K, "group": GROUP,
                                 "cases": cases})


if __name__ == "__main__":
    main()
