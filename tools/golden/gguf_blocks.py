#!/usr/bin/env python3
"""Random blocks of every quantized GGUF type and what the `gguf` package makes of them: all bits of its floats."""

import gguf
import numpy as np

from provenance import provenance, write_golden

ROWS = 2
# Bytes of the F16 scales and minimums in a block (ggml-common.h); MXFP4 has an E8M0 byte at 0.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0], "MXFP4": [],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_XS": [0],
}


def random_blocks(random, name, count):
    """[count, bytes], every bit random but for scales: of either sign, also subnormal and zero."""
    blocks = random.integers(0, 256, (count, gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]), np.uint8)
    for byte in HALVES[name]:
        halves = (random.normal(size=count) * 0.05).astype(np.float16)
        halves[0] = np.float16(-6e-8)
        blocks[:, byte:byte + 2] = halves.view(np.uint8).reshape(count, 2)
    if name == "MXFP4":
        blocks[:, 0] = np.resize([0, 1, 2, 127, 200], count)
    return blocks


def main():
    random = np.random.default_rng(5)
    types = []
    for name in HALVES:
        kind = gguf.GGMLQuantizationType[name]
        weights, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        blocks_per_row = 1 if weights == 256 else 3
        blocks = random_blocks(random, name, ROWS * blocks_per_row)
        values = gguf.quants.dequantize(blocks.reshape(ROWS, -1), kind)
        assert values.shape == (ROWS, blocks_per_row * weights) and np.isfinite(values).all()
        types.append({
            "type": name.lower(),
            "blocks": blocks.tobytes().hex(),
            "values": values.astype(np.float32).view(np.uint32).astype(">u4").tobytes().hex(),
        })
    write_golden("gguf_blocks", {"provenance": provenance("gguf", "numpy"), "results": types})


if __name__ == "__main__":
    main()
