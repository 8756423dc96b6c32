"""Bytes of the layouts made for tensor cores: tests/golden/packings_tensor_cores.json.

Run with torch and numpy; the argument is the unpacked source release of AutoAWQ (0.2.9), whose modules gemv, gemv_fast
and marlin pack here, without its CUDA extensions. QServe has no release: its layout is written below from its
published reordering for the kernels (Lin et al. 2024, arXiv 2405.04532), as a reshape and a transpose, apart from our
closed form. Code (n, k) is (7 n + 3 k + n k / 5) mod 16, zero points likewise over (n, g); the scale of (n, g) is
(32 + (5 n + 3 g) mod 32) / 2048: the same formulas in the tests. Words are hexadecimal, row by row.
"""

import importlib.util
import pathlib
import sys
import types

import numpy as np
import torch

from provenance import provenance, write_golden

GROUP = 32


def codes(rows, columns):
    n, k = np.arange(rows)[:, None], np.arange(columns)[None, :]
    return (7 * n + 3 * k + n * k // 5) % 16


def scales(rows, groups):
    n, g = np.arange(rows)[:, None], np.arange(groups)[None, :]
    return (32 + (5 * n + 3 * g) % 32) / 2048


def golden(layout, rows, columns, words, bits=4):
    words = np.ascontiguousarray(words)
    digits = 2 * words.dtype.itemsize
    unsigned = words.view(f"u{words.dtype.itemsize}")
    return {"layout": layout, "bits": bits, "rows": rows, "columns": columns, "shape": list(words.shape),
            "words": [f"{int(word):0{digits}x}" for word in unsigned.flatten()]}


def autoawq(root):
    """Its modules, loaded one by one: importing the package needs its extensions and an old transformers."""
    def load(name):
        spec = importlib.util.spec_from_file_location(name, root / (name.replace(".", "/") + ".py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    for package in ("awq", "awq.utils", "awq.modules", "awq.modules.linear"):
        sys.modules[package] = types.ModuleType(package)
    load("awq.utils.module")
    return {name: load("awq.modules.linear." + name) for name in ("gemv", "gemv_fast", "marlin")}


def linear_of(weights):
    linear = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False)
    linear.weight.data = torch.tensor(weights, dtype=torch.float32)
    return linear


def from_autoawq(modules):
    N, K = 16, 128
    G = K // GROUP
    q, z, s = codes(N, K), codes(N, G), scales(N, G)
    weights = (q - z.repeat(GROUP, axis=1)) * s.repeat(GROUP, axis=1)
    for kind, name in (("gemv", "WQLinear_GEMV"), ("gemv_fast", "WQLinear_GEMVFast")):
        packed = getattr(modules[kind], name).from_linear(
            linear_of(weights), 4, GROUP, scales=torch.tensor(s, dtype=torch.float16), zeros=torch.tensor(z))
        yield golden(f"{kind}_qweight", N, K, packed.qweight.numpy())
        yield golden(f"{kind}_qzeros", N, G, packed.qzeros.numpy())
        yield golden(f"{kind}_scales", N, G, packed.scales.numpy())
    N, K = 64, 128
    for group in (64, K):
        q, s = codes(N, K), scales(N, K // group)
        weights = (q - 8) * s.repeat(group, axis=1)
        packed = modules["marlin"].WQLinear_Marlin.from_linear(
            linear_of(weights), 4, group, scales=torch.tensor(s, dtype=torch.float16))
        if group == K:
            yield golden("marlin_channel_scales", N, 1, packed.scales.numpy())
        else:
            yield golden("marlin", N, K, packed.qweight.numpy())
            yield golden("marlin_scales", N, K // group, packed.scales.numpy())


def qserve_weights(q):
    """Tiles of 32 x 32: rows 8 of a thread group first, then fours of columns; halves of rows share a byte."""
    N, K = q.shape
    #          tile row, half, eight, row; tile column, half, four, column
    axes = q.reshape(N // 32, 2, 2, 8, K // 32, 2, 4, 4)
    ordered = axes.transpose(0, 4, 3, 6, 5, 2, 7, 1)
    return (ordered[..., 0] | ordered[..., 1] << 4).astype(np.uint8).reshape(N, K // 2)


def qserve_scales(s):
    """[N, G] -> [G, N]; in every 32 rows 0, 8, 16, 24, 1, 9, ..."""
    return s.T.reshape(-1, s.shape[0] // 32, 4, 8).transpose(0, 1, 3, 2).reshape(s.shape[1], s.shape[0])


def main():
    results = list(from_autoawq(autoawq(pathlib.Path(sys.argv[1]).resolve())))
    results.append(golden("qserve", 32, 64, qserve_weights(codes(32, 64))))
    results.append(golden("qserve_scales", 64, 2, qserve_scales(codes(64, 2).astype(np.uint8))))
    made_by = provenance("torch", "numpy")
    made_by["autoawq"] = "0.2.9"
    write_golden("packings_tensor_cores", {"made_by": made_by, "results": results})


if __name__ == "__main__":
    main()
