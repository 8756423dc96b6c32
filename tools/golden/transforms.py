"""tests/golden/transforms.json: AWQ's and SmoothQuant's scales by NumPy in float64, written from the papers' formulas.

AWQ: J. Lin et al., arXiv 2306.00978; duo scaling as AutoAWQ defines it; the loss is tr(E H E'). SmoothQuant: G. Xiao et
al., arXiv 2211.10438, equation 4. python tools/golden/transforms.py, with numpy.
"""

import numpy as np
from provenance import provenance, write_golden

N, K, GROUP, TOKENS = 24, 64, 32, 200


def sequence(count, seed):
    """The upper bits of a linear congruential generator, in [-1, 1): the test repeats it."""
    state, values = seed, np.empty(count, dtype=np.float32)
    for i in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values[i] = np.float32((state >> 8) / 2**23 - 1)
    return values


def layer(seed):
    W = sequence(N * K, seed).reshape(N, K)
    X = sequence(TOKENS * K, seed + 1).reshape(TOKENS, K)
    X *= np.float32(2.0) ** (sequence(K, seed + 2) * 4).round().astype(np.float32)  # exact
    return W, X


def round_to_nearest(W, bits, symmetric):
    """The project's rule, scales rounded to float16 first."""
    out = np.empty_like(W)
    for first in range(0, K, GROUP):
        w = W[:, first:first + GROUP].astype(np.float32)
        low, high = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0)
        if symmetric:
            s = (np.maximum(-low, high) / np.float32(0.5 * (2**bits - 1))).astype(np.float16).astype(np.float32)
            q = np.clip(np.rint(w / s[:, None]), -2 ** (bits - 1), 2 ** (bits - 1) - 1)
        else:
            s = ((high - low) / np.float32(2**bits - 1)).astype(np.float16).astype(np.float32)
            z = np.clip(np.rint(-low / s), 0, 2**bits - 1)
            q = np.clip(np.rint(w / s[:, None]) + z[:, None], 0, 2**bits - 1) - z[:, None]
        out[:, first:first + GROUP] = q * s[:, None]
    return out


def loss(W, V, H):
    E = W.astype(np.float64) - V
    return float(np.einsum("nk,kl,nl->", E, H, E))


def awq(seed, bits, symmetric):
    W, X = layer(seed)
    H = X.astype(np.float64).T @ X / TOKENS
    x = np.abs(X).mean(0, dtype=np.float64)
    groups = np.abs(W).reshape(N, K // GROUP, GROUP)
    w = (groups / groups.max(2, keepdims=True)).reshape(N, K).mean(0, dtype=np.float64)
    best = None
    for duo in (False, True):
        for i in range(20):
            r = i / 20
            s = x**r / (w ** (1 - r) + 1e-4) if duo else x**r
            s = np.maximum(s, 1e-4)
            s = (s / np.sqrt(s.max() * s.min())).astype(np.float32)
            value = loss(W, round_to_nearest(W * s, bits, symmetric) / s, H)
            if best is None or value < best[0]:
                best = (value, r, duo, s)
    identity = loss(W, round_to_nearest(W, bits, symmetric), H)
    return {"seed": seed, "bits": bits, "symmetric": symmetric, "ratio": best[1], "duo": best[2], "score_before": identity,
            "score_after": best[0], "scales": [float(v) for v in best[3]]}


def smoothquant(seed, alpha):
    W, X = layer(seed)
    s = np.abs(X).max(0).astype(np.float64) ** alpha / np.abs(W).max(0).astype(np.float64) ** (1 - alpha)
    return {"seed": seed, "alpha": alpha, "scales": [float(v) for v in np.maximum(s, 1e-5)]}


def clip(seed, bits):
    """The share of each group's largest magnitude that is kept: p = 1, .95, .. .55."""
    W, X = layer(seed)
    H = X.astype(np.float64).T @ X / TOKENS
    best = np.full((N, K // GROUP), np.inf)
    kept = np.ones((N, K // GROUP))
    for step in range(10):
        p = np.float32(1) - np.float32(step) / np.float32(20)
        limit = p * np.abs(W).reshape(N, K // GROUP, GROUP).max(2)
        V = np.clip(W, -np.repeat(limit, GROUP, 1), np.repeat(limit, GROUP, 1))
        E = round_to_nearest(V, bits, False).astype(np.float64) - W
        for g in range(K // GROUP):
            part = slice(g * GROUP, (g + 1) * GROUP)
            losses = np.einsum("nk,kl,nl->n", E[:, part], H[part, part], E[:, part])
            better = losses < best[:, g]
            best[better, g] = losses[better]
            kept[better, g] = p
    return {"seed": seed, "bits": bits, "kept": [[float(v) for v in row] for row in kept]}


def main():
    write_golden("transforms", {
        "provenance": provenance("numpy"),
        "awq": [awq(seed, bits, symmetric) for seed in (1, 2) for bits in (3, 4) for symmetric in (False, True)],
        "smoothquant": [smoothquant(seed, alpha) for seed in (1, 2) for alpha in (0.5, 0.8)],
        "clip": [clip(seed, bits) for seed in (1, 2) for bits in (2, 4)]})


if __name__ == "__main__":
    main()
