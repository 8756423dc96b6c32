"""Checkpoints made by compressed-tensors itself: tests/data/peers/ct-*, tests/golden/peers_compressed_tensors.json.

Scales and zero points come from the library's calculate_qparams, codes and bytes from its ModelCompressor. Weights are
recorded as the library's own decompression of the saved file in float32, [O, I] row-major, as CRC-32; nll is of those
weights in float32. transformers 5.23 itself loads the file with dequantize=True, whose product is rounded to the type of
the scale; without it, it refuses its own asymmetric files (it expects zero points unpacked), recorded as null.
"""

import json
import shutil
import zlib

import numpy as np
import safetensors.torch
import torch
import transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import (
    QuantizationArgs, QuantizationConfig, QuantizationScheme, QuantizationStatus, apply_quantization_config)
from compressed_tensors.quantization.utils import calculate_qparams

from perplexity import nll_of_windows, windows_of
from provenance import ROOT, provenance, write_golden

TINY, PEERS, LENGTH = ROOT / "tests" / "data" / "tiny", ROOT / "tests" / "data" / "peers", 128

# name, source model, weight arguments, targets' exceptions
CHECKPOINTS = [
    ("ct-int4-g32-asymmetric", "llama", {"num_bits": 4, "group_size": 32, "strategy": "group", "symmetric": False}),
    ("ct-int4-g32-symmetric-bf16", "qwen2", {"num_bits": 4, "group_size": 32, "strategy": "group", "symmetric": True}),
    ("ct-int8-channel-symmetric", "llama", {"num_bits": 8, "strategy": "channel", "symmetric": True}),
    ("ct-int8-channel-asymmetric", "llama", {"num_bits": 8, "strategy": "channel", "symmetric": False}),
    ("ct-int3-g32-symmetric", "llama", {"num_bits": 3, "group_size": 32, "strategy": "group", "symmetric": True}),
    ("ct-int2-g32-asymmetric", "llama", {"num_bits": 2, "group_size": 32, "strategy": "group", "symmetric": False}),
]


def set_parameters(linear, args):
    """Minimum and maximum of every group, as an observer sees them."""
    W = linear.weight.data
    groups = W.unflatten(-1, (-1, args.group_size)) if args.strategy == "group" else W[:, None, :]
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    linear.weight_scale.data.copy_(scale)
    if hasattr(linear, "weight_zero_point"):
        linear.weight_zero_point.data.copy_(zero)
    linear.quantization_status = QuantizationStatus.FROZEN


def make(source, folder, arguments):
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY / source, dtype="auto")
    args = QuantizationArgs(type="int", **arguments)
    config = QuantizationConfig(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=args)}, ignore=["lm_head"],
        format="pack-quantized")
    apply_quantization_config(model, config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and hasattr(module, "quantization_scheme"):
            set_parameters(module, module.quantization_scheme.weights)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format="pack-quantized")
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def weights_of(folder, args):
    """Every quantized module's weights as the library decompresses them, in float32."""
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {}
    for name in tensors:
        if name.endswith(".weight_packed"):
            module = name.removesuffix(".weight_packed")
            state = {key.removeprefix(module + "."): value for key, value in tensors.items()
                     if key.startswith(module + ".weight_")}
            state["weight_scale"] = state["weight_scale"].float()
            weights[module] = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
            assert weights[module].dtype == torch.float32
    return weights


def load(folder, ids, dequantize):
    """nll of the model as transformers loads it, or None where it refuses."""
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype="float32", quantization_config=transformers.CompressedTensorsConfig(dequantize=dequantize))
    except RuntimeError as error:
        print(f"{folder.name}, dequantize={dequantize}: {str(error).splitlines()[0]}")
        return None
    return nll_of_windows(model.eval(), windows_of(ids, LENGTH)).mean()


def main():
    ids = np.load(TINY / "ids.npy")
    results = {}
    for name, source, arguments in CHECKPOINTS:
        folder = PEERS / name
        shutil.rmtree(folder, ignore_errors=True)
        make(source, folder, arguments)
        weights = weights_of(folder, QuantizationArgs(type="int", **arguments))
        loaded = {"packed": load(folder, ids, False), "dequantize": load(folder, ids, True)}
        dense = transformers.AutoModelForCausalLM.from_pretrained(TINY / source, dtype="float32").eval()
        for module, weight in weights.items():
            dense.get_submodule(module).weight.data.copy_(weight)
        of_weights = nll_of_windows(dense, windows_of(ids, LENGTH)).mean()
        results[name] = {
            "source": f"tests/data/tiny/{source}", "ids": "tests/data/tiny/ids.npy", "seq_len": LENGTH,
            "nll": of_weights, "nll_as_loaded_by_transformers": loaded,
            "weights_crc32": {module: zlib.crc32(weight.contiguous().numpy().tobytes())
                              for module, weight in sorted(weights.items())},
        }
        print(name, of_weights, loaded, (folder / "model.safetensors").stat().st_size, flush=True)
    write_golden("peers_compressed_tensors", {
        "made_by": provenance("compressed-tensors", "torch", "transformers", "safetensors"), "results": results})


if __name__ == "__main__":
    main()
