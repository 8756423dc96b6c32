#!/usr/bin/env python3
"""Opens a model folder, or .safetensors files, with the safetensors library and says what it found.

usage: check_safetensors.py PATH [SOURCE]

PATH is a folder in Hugging Face layout. With SOURCE, another such folder, every tensor that both have
under one name, dtype and shape must have equal bytes; how many were compared is printed. Needs the
Python packages safetensors and torch. Exit status 1 on any difference.
"""

import json
import pathlib
import sys

import torch
from safetensors import safe_open


def check_header(file):
    raw = file.read_bytes()[: 8 + 100_000_000]
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0, f"{file}: header of {length} bytes"
    assert header.get("__metadata__", {}).get("format") == "pt", f"{file}: no format pt"


def tensors_of(folder):
    """name -> tensor, through the index where there is one."""
    index = folder / "model.safetensors.index.json"
    files = [folder / "model.safetensors"]
    weight_map = None
    if index.exists():
        content = json.loads(index.read_text())
        weight_map = content["weight_map"]
        files = [folder / name for name in sorted(set(weight_map.values()))]
    tensors = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():
                assert weight_map is None or weight_map[name] == file.name, f"{file}: {name}"
                assert name not in tensors, f"{file}: {name} twice"
                tensors[name] = opened.get_tensor(name)
    if weight_map is not None:
        assert tensors.keys() == weight_map.keys(), f"{index}: names differ"
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        assert content["metadata"]["total_size"] == size, f"{index}: total_size is not {size}"
    return files, tensors


def main():
    folder = pathlib.Path(sys.argv[1])
    files, tensors = tensors_of(folder)
    for file in files:
        check_header(file)
    print(f"{folder}: {len(files)} files, {len(tensors)} tensors, read by safetensors")
    if len(sys.argv) < 3:
        return 0
    _, source = tensors_of(pathlib.Path(sys.argv[2]))
    different = []
    compared = 0
    for name, tensor in tensors.items():
        other = source.get(name)
        if other is None or other.dtype != tensor.dtype or other.shape != tensor.shape:
            continue
        compared += 1
        if not torch.equal(tensor.view(torch.uint8), other.view(torch.uint8)):
            different.append(name)
    print(f"{compared} tensors compared with {sys.argv[2]}, {len(different)} differ")
    for name in different:
        print(f"  {name}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
