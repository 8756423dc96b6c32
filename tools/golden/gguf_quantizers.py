#!/usr/bin/env python3
"""Bytes of llama.cpp's own quantizers (ggml_quantize_chunk), without and with importance weights, for weights that the test
makes too.

Needs the wheel xllamacpp, which carries llama.cpp.
"""

import sys

import gguf
import numpy as np

from provenance import ROOT, provenance, write_golden

sys.path.insert(0, str(ROOT / "tools" / "interop"))
import llama_cpp  # pylint: disable=wrong-import-position

TYPES = ["Q8_0", "Q6_K", "Q5_1", "Q5_K", "Q5_0", "Q4_1", "Q4_K", "Q4_0", "IQ4_NL", "IQ4_XS", "MXFP4", "Q3_K", "Q2_K"]
ROWS, COLUMNS = 4, 512


def weights():
    """[ROWS, COLUMNS]: cubes of a linear congruential generator's values; row 1 all positive, row 2 begins with zeros and
    has an extreme, row 3 is small."""
    state, values = 7, []
    for _ in range(ROWS * COLUMNS):
        state = (state * 1664525 + 1013904223) % 2**32
        x = np.float32(state >> 8) * np.float32(2.**-23) - np.float32(1)
        values.append(x * x * x)
    w = np.array(values, np.float32).reshape(ROWS, COLUMNS)
    w[1] = np.abs(w[1])
    w[2, :256] = 0
    w[2, 300] = -8
    w[3] *= np.float32(2.**-12)
    return w


def importance():
    """[COLUMNS]: some columns count up to 10,000 times as much as others, 16 neighbours and a few others nothing."""
    k = np.arange(COLUMNS)
    values = np.float32(1) + (k * 37 % 101).astype(np.float32) * np.float32(0.25)
    values[k % 50 == 7] *= np.float32(400)
    values[k % 61 == 3] = 0
    values[320:336] = 0
    return values


def main():
    w = weights()
    results = {}
    for name in TYPES:
        kind = int(gguf.GGMLQuantizationType[name])
        results[name.lower()] = {"plain": llama_cpp.quantize(kind, w).tobytes().hex(),
                                 "weighed": llama_cpp.quantize(kind, w, importance()).tobytes().hex()}
    write_golden("gguf_quantizers", {"provenance": provenance("xllamacpp", "gguf", "numpy"), "results": results})


if __name__ == "__main__":
    main()
