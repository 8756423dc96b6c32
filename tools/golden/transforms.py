"""AWQ's scales and clipping and SmoothQuant's scales in NumPy, float64, from the papers: tests/golden/transforms.json.

AWQ (arXiv 2306.00978): x = mean |X_k|, r = 0, .05, .. .95: s = max(x^r, 1e-4), or with duo scaling (AutoAWQ)
s = max(x^r / (w^(1-r) + 1e-4), 1e-4), w = mean over all rows of |W| / largest |W| of the group; s /= sqrt(max s min s).
Loss: sum over layers of |X (W - Q(W s) / s)'|^2 / T, computed from the inputs themselves. Tied inputs share the mean of x and w.
Clipping: per row and group m = (1 - i/20) max |w|, i = 0 .. 9, the first with the least |X_g (w - Q(clamp(w, -m, m)))'|^2.
SmoothQuant (arXiv 2211.10438, equation 4): s = max(max|X_k|^alpha / max(max|W_k|, 1e-5)^(1-alpha), 1e-5), and for a searched alpha
the loss above plus the error by rounding activations with the step d = 2 m / 255, sum over k of |W_k s_k|^2 times: static, d^2 / 12,
m = largest |X_k / s_k|; by token, E[d^2] / 12 + E[d^2; k is the largest] / 6, of independent Gaussians of variance H_kk / s_k^2 cut at
the largest |X_k / s_k|, by integrals over 20000 points.
Rounding to nearest as in tools/golden/rtn.py, scales rounded to their stored type: F16 or BF16 where the ends of a range would
else be ties (2 |w| / (2^b - 1) rounds |w| to half a level, and so does the zero point of a range -m .. m), decided by the last bit.

The inputs need no file. state = state * 1664525 + 1013904223 mod 2^32 from 2026; u = ((state >> 8) - 2^23) * 2^-23.
X [T, K] in float64, row-major: x[t, k] = u * 2^-(k * 7 mod 6) + x[t, k - 1] / 4, then column 17 times 128. Then, the state running
on, W of each layer [N, K] = u * 2^-(n mod 3) * 2^-(k * 5 mod 3) as float32. Statistics (H, mean, largest) are rounded to float32.
"""

import math

import numpy as np

from provenance import provenance, write_golden

K, T = 192, 576
ROWS = (10, 14)
TIED = [head // 3 * 32 + i for head in range(6) for i in range(32)]  # 6 heads read 2 values of 32

# bits, group of each layer, symmetric, scale type, tied
AWQ = [
    (4, (64, 64), False, "F16", False),
    (4, (128, 128), True, "BF16", False),
    (3, (64, 64), False, "F16", False),
    (3, (-1, -1), False, "F32", False),
    (2, (64, 64), False, "F16", False),
    (4, (32, 64), False, "F16", True),
    (8, (-1, -1), True, "F16", False),
]
# bits, group, symmetric, scale type
CLIP = [(4, 64, False, "F16"), (3, 128, True, "F16"), (2, 64, False, "BF16"), (3, -1, False, "F16")]


def inputs():
    state = 2026

    def draw(count):
        nonlocal state
        values = np.empty(count)
        for i in range(count):
            state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
            values[i] = (state >> 8) - (1 << 23)
        return values * 2.0 ** -23

    k = np.arange(K)
    X = draw(T * K).reshape(T, K) * 2.0 ** -(k * 7 % 6)
    for j in range(1, K):
        X[:, j] += X[:, j - 1] / 4
    X[:, 17] *= 128
    layers = [(draw(N * K).reshape(N, K) * 2.0 ** -(np.arange(N)[:, None] % 3) * 2.0 ** -(k * 5 % 3)).astype(np.float32).astype(float)
              for N in ROWS]
    return X, layers


def stored(scale, dtype):
    if dtype == "F16":
        return scale.astype(np.float16).astype(float)
    single = scale.astype(np.float32)
    if dtype == "BF16":
        bits = single.view(np.uint32).astype(np.uint64)
        single = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return single.astype(float)


def blocks(group):
    width = K if group == -1 else group
    return [slice(first, min(first + width, K)) for first in range(0, K, width)]


def nearest(w, bits, symmetric, dtype):
    """Rounding to nearest of one group w [N, columns]."""
    low, high, steps = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0), 2 ** bits - 1
    s = stored(np.maximum(-low, high) * 2 / steps if symmetric else (high - low) / steps, dtype)[:, None]
    if symmetric:
        return np.clip(np.rint(w / s), -2 ** (bits - 1), 2 ** (bits - 1) - 1) * s
    z = np.clip(np.rint(-low[:, None] / s), 0, steps)
    return (np.clip(np.rint(w / s) + z, 0, steps) - z) * s


def rounded(W, bits, group, symmetric, dtype):
    return np.hstack([nearest(W[:, block], bits, symmetric, dtype) for block in blocks(group)])


def loss(X, layers, s, bits, groups, symmetric, dtype):
    return sum(np.sum((X @ (W - rounded(W * s, bits, group, symmetric, dtype) / s).T) ** 2) / T for W, group in zip(layers, groups))


def over_ties(values, combine, tied):
    return np.array([combine(values[np.array(TIED) == TIED[k]]) for k in range(K)]) if tied else values


def awq(X, layers, bits, groups, symmetric, dtype, tied):
    relative = []
    for W, group in zip(layers, groups):
        relative.append(np.hstack([np.abs(W[:, b]) / np.abs(W[:, b]).max(1, keepdims=True) for b in blocks(group)]))
    w = over_ties(np.vstack(relative).mean(0), np.mean, tied)
    x = over_ties(np.abs(X).mean(0), np.mean, tied)
    losses, best = [], None
    for duo in (False, True):
        for i in range(20):
            r = i / 20
            s = np.maximum(x ** r / (w ** (1 - r) + 1e-4) if duo else x ** r, 1e-4)
            s /= math.sqrt(s.max() * s.min())
            losses.append(loss(X, layers, s, bits, groups, symmetric, dtype))
            if best is None or losses[-1] < best[0]:
                best = (losses[-1], r, duo, s)
    second = sorted(losses)[1]
    assert second > best[0] * 1.0001, "the best is no clear winner"
    return losses, best


def clip(X, W, bits, group, symmetric, dtype):
    steps, before, after, least_gap = [], 0, 0, 1
    for block in blocks(group):
        w, x = W[:, block], X[:, block]
        m = np.abs(w).max(1, keepdims=True)
        losses = np.array([np.sum(((nearest(np.clip(w, -m * (1 - i / 20), m * (1 - i / 20)), bits, symmetric, dtype) - w) @ x.T) ** 2, axis=1) / T
                           for i in range(10)])
        ordered = np.sort(losses, axis=0)
        least_gap = min(least_gap, np.min((ordered[1] - ordered[0]) / ordered[0]))
        steps.append(losses.argmin(0))
        before, after = before + losses[0].sum(), after + losses.min(0).sum()
    print("clip", bits, group, "least gap", least_gap)
    return np.array(steps).T, before, after


def smoothquant_scales(X, layers, alpha, tied):
    x = over_ties(np.abs(X).max(0), np.max, tied)
    w = over_ties(np.max([np.abs(W).max(0) for W in layers], axis=0), np.max, tied)
    return np.maximum(x ** alpha / np.maximum(w, 1e-5) ** (1 - alpha), 1e-5)


def expected_error(X, layers, s, dynamic):
    variance, largest = np.mean(X ** 2, 0) / s ** 2, np.abs(X).max(0) / s
    columns = sum(np.sum((W * s) ** 2, 0) for W in layers)
    if dynamic:
        h = largest.max() / 20000
        y = (np.arange(20000) + 0.5) * h
        below = np.ones((K, len(y)))
        for k in range(K):
            inside = y < largest[k]
            below[k, inside] = [math.erf(t) for t in y[inside] / math.sqrt(2 * variance[k])]
        product = below.prod(0)
        squares = np.empty(K)
        for k in range(K):
            inside = y < largest[k]
            others = product[inside] / np.maximum(below[k, inside], 1e-300)
            density = math.sqrt(2 / (math.pi * variance[k])) * np.exp(-y[inside] ** 2 / (2 * variance[k]))
            at_end = math.prod(math.erf(largest[k] / math.sqrt(2 * variance[j])) for j in range(K) if largest[j] > largest[k])
            squares[k] = np.sum(y[inside] ** 2 * density * others) * h
            squares[k] += largest[k] ** 2 * math.erfc(largest[k] / math.sqrt(2 * variance[k])) * at_end
        noise = columns.sum() * squares.sum() / 12 + columns @ squares * (1 / 4 - 1 / 12)
    else:
        noise = columns.sum() * largest.max() ** 2 / 12
    return loss(X, layers, s, 8, (-1, -1), True, "F16") + 4 / 255 ** 2 * noise


def search_alpha(X, layers, dynamic):
    candidates = [(None, np.ones(K))] + [(i / 20, smoothquant_scales(X, layers, i / 20, False)) for i in range(21)]
    errors = [expected_error(X, layers, s, dynamic) for _, s in candidates]
    best = int(np.argmin(errors))
    print("alpha", dynamic, candidates[best][0], sorted(errors)[:3], errors[0])
    return candidates[best][0], errors[0], errors[best]


def digits(values):
    return [float(f"{value:.8g}") for value in values]


def main():
    X, layers = inputs()
    result = {"made_by": provenance("numpy"), "K": K, "T": T, "rows": list(ROWS), "tied": TIED,
              "check": {"x": float(np.abs(X).sum()), "w": float(np.abs(layers[1]).sum())}, "awq": [], "clip": [], "smoothquant": [], "alpha": []}
    for bits, groups, symmetric, dtype, tied in AWQ:
        losses, (least, ratio, duo, s) = awq(X, layers, bits, groups, symmetric, dtype, tied)
        print("awq", bits, groups, symmetric, tied, ratio, duo, least / losses[0])
        result["awq"].append({"bits": bits, "groups": list(groups), "symmetric": symmetric, "scale_type": dtype, "tied": tied,
                              "ratio": ratio, "duo": duo, "losses": digits(losses), "scales": digits(s)})
    for bits, group, symmetric, dtype in CLIP:
        steps, before, after = clip(X, layers[1], bits, group, symmetric, dtype)
        result["clip"].append({"bits": bits, "group": group, "symmetric": symmetric, "scale_type": dtype,
                               "before": before, "after": after, "steps": "".join(map(str, steps.ravel()))})
    for alpha, tied in ((0.5, False), (0.8, False), (0.8, True)):
        result["smoothquant"].append({"alpha": alpha, "tied": tied, "scales": digits(smoothquant_scales(X, layers, alpha, tied))})
    for dynamic in (True, False):
        alpha, before, after = search_alpha(X, layers, dynamic)
        result["alpha"].append({"dynamic": dynamic, "alpha": alpha, "before": before, "after": after})
    write_golden("transforms", result)


if __name__ == "__main__":
    main()
