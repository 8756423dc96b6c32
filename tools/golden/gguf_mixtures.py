#!/usr/bin/env python3
"""Which type llama.cpp's file types give each tensor (llama_model_quantize), for models of several shapes.

Needs the wheel llama-cpp-py-sync, which carries llama.cpp's libraries (for glibc 2.38 and later), and gguf.
"""

import ctypes
import importlib.util
import pathlib
import tempfile

import gguf
import numpy as np

from provenance import provenance, write_golden

FILE_TYPES = {"q2_k_m": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17}

# Query heads, key heads, inputs of every layer, whether the head has a tensor of its own.
MODELS = {
    "llama": {"blocks": 32, "heads": 4, "kv_heads": 1, "width": 256, "head": True},
    "llama-tied": {"blocks": 6, "heads": 4, "kv_heads": 2, "width": 256, "head": False},
    "llama-narrow": {"blocks": 9, "heads": 4, "kv_heads": 2, "width": 96, "head": True},
    "llama-80": {"blocks": 80, "heads": 8, "kv_heads": 1, "width": 256, "head": True},
    "qwen2": {"blocks": 28, "heads": 4, "kv_heads": 2, "width": 256, "head": False},
    "gpt2": {"blocks": 12, "heads": 4, "kv_heads": 4, "width": 256, "head": False},
}
VOCABULARY = 32


class Parameters(ctypes.Structure):
    """What llama_model_quantize_default_params returned; only its beginning is known here."""

    _fields_ = [("threads", ctypes.c_int32), ("file_type", ctypes.c_int), ("others", ctypes.c_uint8 * 1024)]


def library():
    folder = pathlib.Path(importlib.util.find_spec("llama_cpp_py_sync").origin).parent
    for name in ["libggml-base.so.0", "libggml-cpu.so.0", "libggml-rpc.so.0", "libggml.so.0", "libllama.so"]:
        lib = ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    lib.llama_model_quantize_default_params.restype = Parameters
    lib.llama_model_quantize.restype = ctypes.c_uint32
    lib.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
    return lib


def write_model(path, name, blocks, heads, kv_heads, width, head):
    """A model of random weights; every layer has `width` inputs."""
    arch = name.split("-")[0]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(32)
    writer.add_embedding_length(width)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    random = np.random.default_rng(1)

    def add(tensor, rows):
        writer.add_tensor(f"{tensor}.weight", random.standard_normal((rows, width)).astype(np.float16))

    add("token_embd", VOCABULARY)
    if head:
        add("output", VOCABULARY)
    for i in range(blocks):
        if arch == "gpt2":
            layers = {"attn_qkv": 3 * width, "attn_output": width, "ffn_up": width, "ffn_down": width}
        else:
            kv = width // heads * kv_heads
            layers = {"attn_q": width, "attn_k": kv, "attn_v": kv, "attn_output": width, "ffn_gate": width, "ffn_up": width,
                      "ffn_down": width}
        for layer, rows in layers.items():
            add(f"blk.{i}.{layer}", rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantized_types(lib, source, target, file_type):
    """{tensor: type, or for the layers of the blocks their types in order, joined by spaces}."""
    parameters = lib.llama_model_quantize_default_params()
    parameters.threads, parameters.file_type = 2, file_type
    assert lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)) == 0
    types = {}
    for tensor in gguf.GGUFReader(target).tensors:
        name = tensor.name.removesuffix(".weight")
        block, layer = (int(name.split(".")[1]), name.split(".")[2]) if name.startswith("blk.") else (0, name)
        types.setdefault(layer, {})[block] = tensor.tensor_type.name.lower()
    return {layer: " ".join(by_block[i] for i in sorted(by_block)) for layer, by_block in types.items()}


def main():
    lib = library()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder) / "source.gguf", pathlib.Path(folder) / "target.gguf"
        for name, shape in MODELS.items():
            write_model(source, name, **shape)
            results[name] = {**shape, "types": {key: quantized_types(lib, source, target, value)
                                                for key, value in FILE_TYPES.items()}}
    write_golden("gguf_mixtures", {"provenance": provenance("llama-cpp-py-sync", "gguf", "numpy"), "results": results})


if __name__ == "__main__":
    main()
