"""k-means codebooks in NumPy, float64, from the definition and nothing of ours: tests/golden/kmeans.json.

For every codebook the weighted squared error is minimised twice. Optimum: clusters of numbers on a line are intervals, so
L_k(i) = min_j L_{k-1}(j) + loss of the sorted values j .. i-1, by the plain quadratic recurrence. Lloyd: centers at the quantiles
(c + 1/2) / 2^bits, then nearest center and weighted mean in turn until nothing moves, an empty cluster staying where it is. Levels
are rounded to their stored type, then each weight takes its nearest level; `loss` and `lloyd_loss` are sum h (w - level)^2 / sum h w^2.

The inputs need no file. state = state * 1664525 + 1013904223 mod 2^32 from 2024; u = ((state >> 8) - 2^23) * 2^-23.
W [N, K], row-major: u u u 2^-(n mod 3) as float32, every fifth weight of a row rounded to a multiple of 1/64; then, the state
running on, h [K] = u u 2^-(k * 7 mod 5) as float32, h[7] = 0.
Codes are given as hexadecimal digits, one per code up to 4 bits, else two.
"""

import numpy as np

from provenance import provenance, write_golden

N, K = 6, 200

# bits, group (-1: row, 0: tensor), weighted by h, codebook type
CASES = [
    (4, -1, False, "F16"),
    (4, -1, True, "F16"),
    (3, -1, True, "BF16"),
    (2, -1, True, "F32"),
    (3, 64, True, "F16"),
    (4, 64, False, "F16"),
    (3, 0, True, "F16"),
    (4, 0, False, "BF16"),
    (1, -1, True, "F16"),
    (5, 0, True, "F32"),
]


def inputs():
    state = 2024

    def draw(count):
        nonlocal state
        values = np.empty(count)
        for i in range(count):
            state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
            values[i] = (state >> 8) - (1 << 23)
        return values * 2.0 ** -23

    u = draw(N * K).reshape(N, K)
    W = u * u * u * 2.0 ** -(np.arange(N)[:, None] % 3)
    W[:, ::5] = np.rint(W[:, ::5] * 64) / 64
    u = draw(K)
    h = u * u * 2.0 ** -(np.arange(K) * 7 % 5)
    h[7] = 0
    return W.astype(np.float32).astype(np.float64), h.astype(np.float32).astype(np.float64)


def stored(levels, dtype):
    if dtype == "F16":
        return levels.astype(np.float32).astype(np.float16).astype(np.float64)
    single = levels.astype(np.float32)
    if dtype == "BF16":
        bits = single.view(np.uint32).astype(np.uint64)
        single = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return single.astype(np.float64)


def merged(w, h):
    """Distinct values and their weights, without those of weight 0."""
    x, inverse = np.unique(w[h > 0], return_inverse=True)
    return x, np.bincount(inverse, h[h > 0])


def optimum(w, h, clusters):
    x, h = merged(w, h)
    n = len(x)
    if n <= clusters:
        return x
    # loss[j, i]: values j .. i-1 around their mean, computed from differences to the mean
    loss = np.full((n + 1, n + 1), np.inf)
    for j in range(n):
        weight = np.cumsum(h[j:])
        center = np.cumsum(h[j:] * (x[j:] - x[j])) / weight
        loss[j, j + 1:] = np.maximum(0, np.cumsum(h[j:] * (x[j:] - x[j]) ** 2) - weight * center ** 2)
    best, starts = loss[0], []
    for _ in range(clusters - 1):
        total = best[:, None] + loss
        starts.append(total.argmin(0))
        best = total.min(0)
    centers, end = [], n
    for start in reversed([np.zeros(n + 1, int)] + starts):
        centers.append(np.average(x[start[end]:end], weights=h[start[end]:end]))
        end = start[end]
    return np.array(centers[::-1])


def lloyd(w, h, clusters):
    x, h = merged(w, h)
    if len(x) <= clusters:
        return x
    centers = np.quantile(x, (np.arange(clusters) + 0.5) / clusters)
    while True:
        near = np.abs(x[:, None] - centers).argmin(1)
        weight = np.bincount(near, h, clusters)
        moved = np.where(weight > 0, np.bincount(near, h * x, clusters) / np.where(weight > 0, weight, 1), centers)
        if np.array_equal(moved, centers):
            return centers
        centers = moved


def solve(method, W, h, bits, group, dtype):
    """-> codebooks [books, 2^bits], codes [N, K], loss."""
    H = np.broadcast_to(h, W.shape)
    width = K if group in (-1, 0) else group
    rows = N if group == 0 else 1
    codes, books, total = np.zeros(W.shape, int), [], 0.0
    for n in range(0, N, rows):
        for k in range(0, K, width):
            at = (slice(n, n + rows), slice(k, k + width))
            levels = stored(method(W[at].ravel(), H[at].ravel(), 2 ** bits), dtype)
            levels = np.concatenate([levels, np.full(2 ** bits - len(levels), levels[-1])])
            codes[at] = np.abs(W[at][..., None] - levels).argmin(-1)
            total += (H[at] * (W[at] - levels[codes[at]]) ** 2).sum()
            books.append(levels)
    return np.array(books), codes, total / (H * W ** 2).sum()


def main():
    W, h = inputs()
    cases = []
    for bits, group, weighted, dtype in CASES:
        importance = h if weighted else np.ones(K)
        books, codes, loss = solve(optimum, W, importance, bits, group, dtype)
        lloyd_loss = solve(lloyd, W, importance, bits, group, dtype)[2]
        digits = 1 if bits <= 4 else 2
        cases.append({"bits": bits, "group": group, "weighted": weighted, "codebook_type": dtype, "loss": loss,
                      "lloyd_loss": lloyd_loss, "last_codebook": books[-1].tolist(),
                      "codes": "".join(f"{code:0{digits}x}" for code in codes.ravel())})
        print(bits, group, weighted, dtype, loss, lloyd_loss)
    write_golden("kmeans", {"made_by": provenance("numpy"), "N": N, "K": K,
                            "inputs": {"sum": float(W.sum()), "h_sum": float(h.sum())}, "cases": cases})


if __name__ == "__main__":
    main()
