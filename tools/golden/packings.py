"""Bytes of foreign packers: tests/golden/packings_compressed_tensors.json and packings_gptqmodel.json.

Run once in an environment with compressed-tensors and once in one with gptqmodel; the first needs a release before 2026
too, unpacked in the folder given as an argument, for its 3-bit layout. Codes are not stored: code (n, k) is
(7 n + 3 k + n k / 5) mod 2^bits, the same formula in the test. Words are 8 hexadecimal digits each, row by row.
"""

import importlib.util
import pathlib
import sys
import types

import torch

from provenance import provenance, write_golden

N, K = 32, 64


def codes(rows, columns, bits):
    n, k = torch.arange(rows)[:, None], torch.arange(columns)[None, :]
    return (7 * n + 3 * k + n * k // 5) % (1 << bits)


def golden(layout, bits, rows, columns, words):
    return {"layout": layout, "bits": bits, "rows": rows, "columns": columns, "shape": list(words.shape),
            "words": [f"{int(word) & 0xFFFFFFFF:08x}" for word in words.flatten()]}


def from_compressed_tensors(pack, bits_list, suffix=""):
    """Weights along K and zero points along N, also where neither fills whole words."""
    for bits in bits_list:
        for rows, columns in ((12, 64), (5, 37)):
            value = (codes(rows, columns, bits) - (1 << bits - 1)).to(torch.int8)
            words = pack(value, bits)
            yield golden("weights" + suffix, bits, rows, columns, words)
            yield golden("zeros" + suffix, bits, rows, columns, pack(value, bits, packed_dim=0))


def main_compressed_tensors(old_release):
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    results = list(from_compressed_tensors(pack_to_int32, (2, 3, 4, 8)))
    sys.path.insert(0, old_release)
    for name in [name for name in sys.modules if name.startswith("compressed_tensors")]:
        del sys.modules[name]
    from compressed_tensors.compressors.quantized_compressors.pack_quantized import pack_to_int32 as old_pack
    results += from_compressed_tensors(old_pack, (3,), "_padded")
    made_by = provenance("torch")
    made_by["compressed-tensors"] = "0.20.0 and, padded, 0.12.2"
    write_golden("packings_compressed_tensors", {"made_by": made_by, "results": results})


def main_gptqmodel():
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    def linear_of(values):
        linear = torch.nn.Linear(K, N, bias=False)
        linear.weight.data = values.float()
        return linear

    def packed(kind, bits, zeros, **more):
        module = kind(bits=bits, group_size=16, sym=False, desc_act=False, in_features=K, out_features=N, bias=False,
                      pack_dtype=torch.int32, register_buffers=True, **more)
        weights = codes(N, K, bits) - zeros.repeat_interleave(16, dim=1)
        module.pack_original = getattr(module, "pack_original", module.pack)
        module.pack_original(linear_of(weights), torch.ones(N, K // 16), zeros.float())
        return module

    results = []
    for bits in (2, 3, 4, 8):
        zeros = codes(N, K // 16, bits)  # zeros of 0 among them
        module = packed(TorchLinear, bits, zeros)
        results.append(golden("gptq_qweight", bits, N, K, module.qweight))
        results.append(golden("gptq_v2_qzeros", bits, N, K // 16, module.qzeros))
        convert_gptq_v2_to_v1_format_module(module, types.SimpleNamespace(bits=bits, pack_dtype=torch.int32))
        results.append(golden("gptq_v1_qzeros", bits, N, K // 16, module.qzeros))
    module = packed(AwqTorchLinear, 4, codes(N, K // 16, 4))
    results.append(golden("awq_qweight", 4, N, K, module.qweight))
    results.append(golden("awq_qzeros", 4, N, K // 16, module.qzeros))
    write_golden("packings_gptqmodel", {"made_by": provenance("gptqmodel", "torch"), "results": results})


def main():
    if importlib.util.find_spec("gptqmodel"):
        main_gptqmodel()
    else:
        main_compressed_tensors(str(pathlib.Path(sys.argv[1]).resolve()))


if __name__ == "__main__":
    main()
