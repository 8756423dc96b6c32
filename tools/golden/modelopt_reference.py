"""What NVIDIA's ModelOpt makes of weights in float32 as NVFP4: tests/golden/modelopt.json.

Needs the wheel nvidia-modelopt (and pulp, which it imports). Arrays are recorded as CRC-32 of their bytes, weights as its
own dequantization in float32. The sources are tensors of tests/data/bookworm-5m.
"""

import zlib

import safetensors.torch
import torch
from modelopt.torch.quantization.qtensor import nvfp4_tensor

from provenance import ROOT, provenance, write_golden

TENSORS = ["model.layers.0.self_attn.k_proj.weight", "model.layers.3.mlp.down_proj.weight"]


def crc(tensor):
    return f"{zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()):08x}"


def main():
    nvfp4_tensor.fp4_compatible = lambda: False  # it asks for a GPU otherwise
    stored = safetensors.torch.load_file(ROOT / "tests" / "data" / "bookworm-5m" / "model.safetensors")
    results = []
    for source in TENSORS:
        W = stored[source].float()
        packed, scale, scale_2 = nvfp4_tensor.NVFP4QTensor.quantize(W.clone(), 16)
        back = packed.dequantize(torch.float32, scale=scale, double_scale=scale_2, block_sizes={-1: 16})
        results.append({"source": source, "weight": crc(packed._quantized_data), "weight_scale": crc(scale),
                        "weight_scale_2": crc(scale_2), "weights": crc(back)})
    write_golden("modelopt", {"made_by": provenance("nvidia-modelopt", "torch"), "results": results})


if __name__ == "__main__":
    main()
