"""What compressed-tensors makes of weights in float32 as FP8, NVFP4 and MXFP4: tests/golden/floats.json.

Scales are the library's calculate_qparams and generate_gparam, bytes those of its compressors, weights its dequantize in
float32 (its own decompression of FP4 rounds them to bfloat16). Arrays are recorded as CRC-32 of their bytes; "inputs" are
the library's fake quantization of activations. Matrices "rtn K" are those of tools/golden/rtn.py; others are tensors of
tests/data/bookworm-5m, which is F16: "scales_f16" are the FP8 scales that the library computes in that type.
"""

import zlib

import safetensors.torch
import torch
from compressed_tensors.compressors.mxfp4 import MXFP4PackedCompressor
from compressed_tensors.compressors.naive_quantized import FloatQuantizationCompressor
from compressed_tensors.compressors.nvfp4 import NVFP4PackedCompressor, unpack_fp4_from_uint8
from compressed_tensors.quantization.lifecycle.forward import dequantize, fake_quantize
from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams, compute_dynamic_scales_and_zp, generate_gparam

import rtn
from provenance import ROOT, provenance, write_golden

TENSORS = ["model.layers.0.self_attn.k_proj.weight", "model.layers.3.mlp.down_proj.weight"]


def crc(tensor):
    return f"{zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().tobytes()):08x}"


def presets():
    """name -> (scheme, compressor)"""
    for name, compressor in [("FP8_DYNAMIC", FloatQuantizationCompressor), ("FP8", FloatQuantizationCompressor),
                             ("FP8_BLOCK", FloatQuantizationCompressor), ("NVFP4A16", NVFP4PackedCompressor),
                             ("MXFP4A16", MXFP4PackedCompressor)]:
        yield name, preset_name_to_scheme(name, ["Linear"]), compressor


def extremes(W, args):
    """Minimum and maximum of every block, in the shape of the scales."""
    if args.strategy == "tensor":
        return W.amin().reshape(1), W.amax().reshape(1)
    if args.strategy == "block":
        blocks = [[W[i:i + 128, j:j + 128] for j in range(0, W.shape[1], 128)] for i in range(0, W.shape[0], 128)]
        return tuple(torch.stack([torch.stack([f(b) for b in row]) for row in blocks]) for f in (torch.amin, torch.amax))
    groups = W.unflatten(-1, (-1, args.group_size or W.shape[1]))
    return groups.amin(-1), groups.amax(-1)


def weights(W, scheme, compressor):
    args = scheme.weights
    low, high = extremes(W, args)
    state = {"weight": W}
    if args.strategy == "tensor_group":
        state["weight_global_scale"] = generate_gparam(W.amin(), W.amax())
    state["weight_scale"], _ = calculate_qparams(low, high, args, state.get("weight_global_scale"))
    stored = compressor.compress(state, scheme)
    codes = stored["weight"] if "weight" in stored else unpack_fp4_from_uint8(
        stored["weight_packed"], *W.shape, dtype=torch.float32)
    padded = torch.zeros([-(-size // 128) * 128 for size in W.shape])
    padded[:W.shape[0], :W.shape[1]] = codes.float()
    whole = padded if args.strategy == "block" else codes.float()
    back = dequantize(whole, state["weight_scale"].float(), args=args, dtype=torch.float32,
                      global_scale=state.get("weight_global_scale"))[:W.shape[0], :W.shape[1]]
    return {**{name: crc(tensor) for name, tensor in stored.items()}, "weights": crc(back)}


def inputs(x, name):
    """Activations as the library's forward pass sees them; NVFP4's stored scale is that of x."""
    args = preset_name_to_scheme(name, ["Linear"]).input_activations
    if args.dynamic:
        scale = generate_gparam(x.amin(), x.amax()) if args.dynamic == "local" else None
        scales, zero = compute_dynamic_scales_and_zp(x, args, torch.nn.Linear(1, 1), global_scale=scale)
        return crc(fake_quantize(x, scales, zero, args, global_scale=scale))
    scales, zero = calculate_qparams(x.amin().reshape(1) / 2, x.amax().reshape(1) / 2, args)
    return crc(fake_quantize(x, scales, zero, args))


def main():
    stored = safetensors.torch.load_file(ROOT / "tests" / "data" / "bookworm-5m" / "model.safetensors")
    sources = {f"rtn {K}": torch.from_numpy(rtn.matrix(K)) for K in (64, 96, 160)}
    sources.update({name: stored[name].float() for name in TENSORS})
    results = [{"source": source, "preset": name, **weights(W, scheme, compressor)}
               for source, W in sources.items() for name, scheme, compressor in presets()]
    for row in results:
        if row["source"] in TENSORS and row["preset"].startswith("FP8"):
            args = preset_name_to_scheme(row["preset"], ["Linear"]).weights
            row["scales_f16"] = crc(calculate_qparams(*extremes(stored[row["source"]], args), args)[0])
    seen = [{"source": source, "preset": name, "inputs": inputs(W[None], name)}
            for source, W in sources.items() for name in ("FP8_DYNAMIC", "FP8", "FP8_BLOCK", "NVFP4", "MXFP4")
            if not (name == "FP8_BLOCK" and W.shape[1] % 128)]
    write_golden("floats", {"made_by": provenance("compressed-tensors", "torch"), "results": results, "inputs": seen})


if __name__ == "__main__":
    main()
