"""The older 3-bit layout of compressed-tensors (up to 0.12: 10 values a word): tests/data/peers/ct-0.12-*.

Needs compressed-tensors 0.12.2, for instance `pip install --no-deps --target OLD compressed-tensors==0.12.2` and
PYTHONPATH=OLD. Unpacks tests/data/peers/ct-int3-g32-symmetric by hand (a dense bit stream, 0.20's layout), packs the codes
with the old library's own function; weights and nll are therefore those of ct-int3-g32-symmetric.
"""

import shutil

import compressed_tensors
import numpy as np
import safetensors.torch
import torch
from compressed_tensors.compressors.quantized_compressors.pack_quantized import pack_to_int32

from provenance import ROOT

PEERS = ROOT / "tests" / "data" / "peers"


def codes_of(packed, shape):
    """Dense 3-bit stream [O, words] -> signed codes [O, I]."""
    bits = np.unpackbits(packed.numpy().view(np.uint8), axis=1, bitorder="little")
    values = bits[:, :shape[1] * 3].reshape(shape[0], shape[1], 3) @ np.array([1, 2, 4])
    return torch.from_numpy((values - 4).astype(np.int8))


def main():
    assert compressed_tensors.__version__.startswith("0.12"), compressed_tensors.__version__
    old, new = PEERS / "ct-0.12-int3-g32-symmetric", PEERS / "ct-int3-g32-symmetric"
    shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(new, old)
    tensors = safetensors.torch.load_file(new / "model.safetensors")
    for name in list(tensors):
        if name.endswith("weight_packed"):
            shape = tensors[name.replace("packed", "shape")].tolist()
            tensors[name] = pack_to_int32(codes_of(tensors[name], shape), 3).contiguous()
    safetensors.torch.save_file(tensors, old / "model.safetensors", metadata={"format": "pt"})
    config = (old / "config.json").read_text(encoding="utf-8")
    (old / "config.json").write_text(config.replace('"version": "0.20.0"', '"version": "0.12.2"'), encoding="utf-8")


if __name__ == "__main__":
    main()
