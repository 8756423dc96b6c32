"""tests/golden/bitsandbytes.json: what bitsandbytes' own functions make of random weights, on the CPU.

python tools/golden/bitsandbytes_reference.py, with bitsandbytes and torch installed. Weights are float32 of a linear
congruential generator that the test repeats; bytes are hexadecimal.
"""

import bitsandbytes.functional as F
import numpy
import torch
from provenance import provenance, write_golden

CASES = [("nf4", 64, 32, 64, False), ("nf4", 64, 33, 100, True), ("nf4", 64, 3, 1000, True), ("nf4", 128, 48, 96, True),
         ("nf4", 32, 7, 45, False), ("fp4", 64, 32, 64, False), ("fp4", 64, 33, 100, True), ("nf4", 64, 200, 512, True)]


def weights(count, seed):
    """Sums of four uniform numbers in [-1, 1), every 37th eight times as large."""
    state, values = seed, []
    for i in range(count):
        total = 0.0
        for _ in range(4):
            state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
            total += (state >> 8) / 2**23 - 1
        values.append(total * (8 if i % 37 == 0 else 1) / 64)
    return numpy.array(values, dtype=numpy.float32)


def hexadecimal(tensor):
    return tensor.contiguous().numpy().tobytes().hex()


def case(kind, block, rows, columns, double):
    w = torch.from_numpy(weights(rows * columns, rows + columns).reshape(rows, columns))
    packed, state = F.quantize_4bit(w, blocksize=block, quant_type=kind, compress_statistics=double)
    large = rows * columns > 10000  # only a digest of what is long
    row = {"kind": kind, "block": block, "rows": rows, "columns": columns, "double": double,
           "absmax": hexadecimal(state.absmax)}
    row["packed"] = hexadecimal(packed)[:4096] if large else hexadecimal(packed)
    if double:
        row["offset"] = float(state.offset)
        row["nested_absmax"] = hexadecimal(state.state2.absmax)
    return row


def main():
    write_golden("bitsandbytes", {
        "provenance": provenance("bitsandbytes", "torch", "numpy"),
        "nf4": hexadecimal(F.get_4bit_type("nf4", device="cpu")), "fp4": hexadecimal(F.get_4bit_type("fp4", device="cpu")),
        "dynamic_map": hexadecimal(F.create_dynamic_map()), "cases": [case(*c) for c in CASES]})


if __name__ == "__main__":
    main()
