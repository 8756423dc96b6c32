"""GPTQ in NumPy, float64, from the paper (arXiv 2210.17323, algorithm 1) and nothing of ours: tests/golden/gptq.json.

U = upper Cholesky factor of (H + damp mean(diag H) I)^-1; for every column i of a block of 128: q = Q(w_i),
e = (w_i - q) / U_ii, w_j -= e U_ij inside the block; after the block, the same for the columns behind it. act-order
permutes the columns by falling diag(H); static groups have their scales from the original weights; otherwise a group's scale is
found at its first column, from weights that later blocks' updates have reached. Scales are rounded to their stored type before use.

The inputs need no file. state = state * 1664525 + 1013904223 mod 2^32 from 12345; u = ((state >> 8) - 2^23) * 2^-23.
X [T, K] in float64, row-major: x[t, k] = u * 2^-(k * 7 mod 5) + x[t, k - 1] / 2; H = X'X / T as float32. Then, the state
running on, W [N, K] = u * 2^-(n mod 3) as float32.
Codes are given as hexadecimal digits, one per code up to 4 bits, else two.
"""

import numpy as np

from provenance import provenance, write_golden

N, K, T = 24, 320, 960
BLOCK = 128

# bits, group, symmetric, act_order, static_groups, search, scale type
CASES = [
    (4, 64, False, True, True, "minmax", "F16"),
    (4, 128, True, True, True, "minmax", "BF16"),
    (3, 32, False, False, False, "minmax", "F16"),
    (3, 64, False, True, False, "minmax", "F16"),
    (4, 100, False, False, False, "minmax", "F32"),
    (4, 192, True, True, False, "hessian", "F16"),
    (2, 64, False, True, True, "hessian", "F16"),
    (4, -1, True, True, True, "hessian", "F16"),
    (3, -1, False, False, False, "mse", "F32"),
    (4, 128, True, True, True, "mse", "F16"),
    (3, 64, False, True, False, "mse", "F16"),
    (8, -1, True, False, True, "minmax", "F32"),
]


def inputs():
    state = 12345

    def draw(count):
        nonlocal state
        values = np.empty(count)
        for i in range(count):
            state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
            values[i] = (state >> 8) - (1 << 23)
        return values * 2.0 ** -23

    X = draw(T * K).reshape(T, K) * 2.0 ** -(np.arange(K) * 7 % 5)
    for k in range(1, K):
        X[:, k] += X[:, k - 1] / 2
    H = (X.T @ X / T).astype(np.float32)
    W = (draw(N * K).reshape(N, K) * 2.0 ** -(np.arange(N)[:, None] % 3)).astype(np.float32)
    return H.astype(np.float64), W.astype(np.float64)


def stored(scale, dtype):
    if dtype == "F16":
        return scale.astype(np.float16).astype(np.float64)
    single = scale.astype(np.float32)
    if dtype == "BF16":
        bits = single.view(np.uint32).astype(np.uint64)
        single = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return single.astype(np.float64)


def rounded(w, scale, zero, bits, symmetric):
    low = -2.0 ** (bits - 1) if symmetric else -zero
    return np.clip(np.rint(w / scale), low, low + 2 ** bits - 1)


def find_params(w, importance, bits, symmetric, search, dtype):
    """w [N, columns] -> scale [N], zero [N]."""
    low, high = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0)
    steps = 2 ** bits - 1
    best = np.full(len(w), np.inf)
    scale, zero = np.ones(len(w)), np.zeros(len(w))
    for i in range(1 if search == "minmax" else 80):
        p = 1 - i / 100
        s = stored(np.maximum(-low, high) * p * 2 / steps if symmetric else (high - low) * p / steps, dtype)
        z = np.zeros(len(w)) if symmetric else np.clip(np.rint(-low * p / s), 0, steps)
        error = np.abs(w - rounded(w, s[:, None], z[:, None], bits, symmetric) * s[:, None])
        error = (error ** 2.4).sum(1) if search == "mse" else (error ** 2 * importance).sum(1)
        better = error < best
        best[better], scale[better], zero[better] = error[better], s[better], z[better]
    return scale, zero


def gptq(W, H, bits, group, symmetric, act_order, static_groups, search, dtype, damp=0.01):
    W, H = W.copy(), H.copy()
    width = K if group == -1 else group
    starts = range(0, K, width)
    importance = np.diag(H).copy()
    fixed = [find_params(W[:, g:g + width], importance[g:g + width], bits, symmetric, search, dtype) for g in starts]
    perm = np.argsort(-np.diag(H), kind="stable") if act_order else np.arange(K)
    W, H, importance = W[:, perm], H[np.ix_(perm, perm)], importance[perm]
    H[np.diag_indices(K)] += damp * np.mean(np.diag(H))
    U = np.linalg.cholesky(np.linalg.inv(H)).T
    levels = np.empty((N, K))
    scales = np.empty((N, len(starts)))
    zeros = np.zeros((N, len(starts)))
    Q = np.empty((N, K))
    for first in range(0, K, BLOCK):
        last = min(first + BLOCK, K)
        W1, U1 = W[:, first:last].copy(), U[first:last, first:last]
        E = np.zeros_like(W1)
        for i in range(last - first):
            j = first + i
            g = perm[j] // width if static_groups else j // width
            if static_groups:
                scales[:, g], zeros[:, g] = fixed[g]
            elif j % width == 0:
                scales[:, g], zeros[:, g] = find_params(W[:, j:j + width], importance[j:j + width], bits, symmetric, search, dtype)
            level = rounded(W1[:, i], scales[:, g], zeros[:, g], bits, symmetric)
            Q[:, j] = level * scales[:, g]
            levels[:, j] = level + (2 ** (bits - 1) if symmetric else zeros[:, g])
            E[:, i] = (W1[:, i] - Q[:, j]) / U1[i, i]
            W1[:, i:] -= np.outer(E[:, i], U1[i, i:])
        W[:, last:] -= E @ U[first:last, last:]
    back = np.argsort(perm)
    return levels[:, back].astype(int), scales, zeros.astype(int), Q[:, back]


def main():
    H, W = inputs()
    cases = []
    for bits, group, symmetric, act_order, static_groups, search, dtype in CASES:
        codes, scales, zeros, Q = gptq(W, H, bits, group, symmetric, act_order, static_groups, search, dtype)
        loss = np.trace((W - Q) @ H @ (W - Q).T) / np.trace(W @ H @ W.T)
        digits = 1 if bits <= 4 else 2
        cases.append({"bits": bits, "group": group, "symmetric": symmetric, "act_order": act_order,
                      "static_groups": static_groups, "search": search, "scale_type": dtype, "loss": loss,
                      "row0_scales": scales[0].tolist(),
                      "codes": "".join(f"{code:0{digits}x}" for code in codes.ravel())})
        print(bits, group, symmetric, act_order, static_groups, search, loss)
    write_golden("gptq", {"made_by": provenance("numpy"), "N": N, "K": K, "T": T,
                          "H": {"trace": float(np.trace(H)), "corner": float(H[0, K - 1])}, "cases": cases})


if __name__ == "__main__":
    main()
