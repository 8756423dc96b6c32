"""NumPy reference of round to nearest, bit for bit: tests/golden/rtn.json.

symmetric   s = absmax * 2 / (2^b - 1), z = 0, codes -2^(b-1) .. 2^(b-1) - 1 (stored plus 2^(b-1))
asymmetric  lo = min(w, 0), hi = max(w, 0), s = (hi - lo) / (2^b - 1), z = clamp(rne(-lo / s), 0, 2^b - 1)
s is rounded to its stored type before it is used; q = clamp(rne(w / s) + z); all in float32. An all-zero group has
s = 1; an s that would round to zero takes the smallest positive value of its type.

The matrix [8, K] needs no file: state = 12345; for every weight in row-major order state = state * 1664525 +
1013904223 mod 2^32 and w = ((state >> 8) - 2^23) * 2^-23 * 2^-(n mod 4); then row 1 is |w|, row 2 is -|w|, row 3 is 0 in
columns 0..63, row 4 is w * 2^-24 (F16 scales that round to zero), row 5 is w * 2^-14 (subnormal F16 scales), and row
6 is ((k * 7 mod 31) - 15) / 2, whose 4-bit symmetric scale is 1 where +-7.5 occurs, so that every second weight is a tie.
"""

import zlib

import numpy as np

from provenance import provenance, write_golden

N = 8
SMALLEST = {"F32": np.float32(2.0 ** -149), "F16": np.float32(2.0 ** -24), "BF16": np.float32(2.0 ** -133)}


def matrix(K):
    state, values = 12345, []
    for _ in range(N * K):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values.append((state >> 8) - (1 << 23))
    W = np.array(values, np.float32).reshape(N, K) * np.float32(2.0 ** -23)
    W *= np.float32(2.0) ** -(np.arange(N, dtype=np.float32)[:, None] % 4)
    W[1] = np.abs(W[1])
    W[2] = -np.abs(W[2])
    W[3, :64] = 0
    W[4] *= np.float32(2.0 ** -24)
    W[5] *= np.float32(2.0 ** -14)
    W[6] = ((np.arange(K) * 7 % 31) - 15).astype(np.float32) / np.float32(2)
    return W


def stored(scale, dtype):
    """float32 -> (the rounded value as float32, its stored integer)."""
    scale = np.float32(scale)
    if dtype == "F32":
        return scale, scale.view(np.uint32)
    if dtype == "F16":
        half = scale.astype(np.float16)
        return half.astype(np.float32), half.view(np.uint16)
    bits = int(scale.view(np.uint32))
    rounded = np.uint32((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000)
    return rounded.view(np.float32), np.uint16(rounded >> 16)


def quantize_group(w, bits, symmetric, dtype):
    """One group w -> codes, stored scale, zero, value of the scale, whether it was raised."""
    levels = np.float32(2 ** bits - 1)
    lo, hi = np.minimum(w.min(), np.float32(0)), np.maximum(w.max(), np.float32(0))
    raised = False
    if symmetric:
        s = np.abs(w).max() * np.float32(2) / levels
    else:
        s = (hi - lo) / levels
    if not w.any():
        s = np.float32(1)
    value, integer = stored(s, dtype)
    if value == 0:
        value, integer = stored(SMALLEST[dtype], dtype)
        raised = True
    if symmetric:
        half = 2 ** (bits - 1)
        q = np.clip(np.rint(w / value), np.float32(-half), np.float32(half - 1)) + np.float32(half)
        z = half
    else:
        z = np.clip(np.rint(-lo / value), np.float32(0), levels)
        q = np.clip(np.rint(w / value) + z, np.float32(0), levels)
    return q.astype(np.uint8), integer, np.uint8(z), value, raised


def quantize(W, bits, group, symmetric, dtype):
    K = W.shape[1]
    group = K if group == -1 else group
    codes = np.empty(W.shape, np.uint8)
    weights = np.empty(W.shape, np.float32)
    scales, zeros, raised = [], [], 0
    for n in range(N):
        for k in range(0, K, group):
            part = slice(k, min(k + group, K))
            codes[n, part], scale, zero, value, was_raised = quantize_group(W[n, part], bits, symmetric, dtype)
            weights[n, part] = (codes[n, part].astype(np.float32) - np.float32(zero)) * value
            scales.append(scale)
            zeros.append(zero)
            raised += was_raised
    return codes, np.array(scales), np.array(zeros), weights, raised


def crc(array):
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def main():
    cases = []
    for K in (256, 200):
        W = matrix(K)
        for bits in range(2, 9):
            for symmetric in (True, False):
                for group in (32, 64, 128, -1):
                    for dtype in ("F16", "BF16", "F32"):
                        codes, scales, zeros, weights, raised = quantize(W, bits, group, symmetric, dtype)
                        cases.append([K, bits, group, symmetric, dtype, crc(codes), crc(scales),
                                      None if symmetric else crc(zeros), crc(weights), raised])
    W = matrix(200)
    codes, scales, zeros, weights, _ = quantize(W, 4, 64, False, "F16")
    write_golden("rtn", {
        "made_by": provenance("numpy"),
        "matrix": {"N": N, "crc32": {str(K): crc(matrix(K)) for K in (256, 200)},
                   "first": [float(w) for w in matrix(256)[0, :4]]},
        "literal": {"K": 200, "bits": 4, "group": 64, "symmetric": False, "scale_type": "F16", "row": 7,
                    "codes": codes[7].tolist(), "scales": scales.reshape(N, -1)[7].tolist(),
                    "zeros": zeros.reshape(N, -1)[7].tolist(), "first_weights": [float(w) for w in weights[7, :4]]},
        "columns": ["K", "bits", "group (-1: whole row)", "symmetric", "scale_type", "crc32 of codes U8 [N, K]",
                    "crc32 of scales [N, G] as stored", "crc32 of zeros U8 [N, G]", "crc32 of weights F32 [N, K]",
                    "scales raised to the smallest value"],
        "cases": cases,
    })


if __name__ == "__main__":
    main()
