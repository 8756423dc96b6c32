"""Checkpoints made by gptqmodel itself: tests/data/peers/gptqmodel-*, tests/golden/peers_gptqmodel.json.

Weights are recorded as gptqmodel dequantizes what it saved: F16 [O, I] row-major, as CRC-32. nll is of those F16 weights
in a float32 forward pass, everything else as the checkpoint stores it.
"""

import contextlib
import json
import shutil
import sys
import tempfile
import zlib

import gptqmodel_reference
import numpy as np
import torch
import transformers
from gptqmodel import GPTQModel, QuantizeConfig

from perplexity import nll_of_windows, windows_of
from provenance import ROOT, provenance, write_golden

TINY, PEERS, LENGTH = ROOT / "tests" / "data" / "tiny", ROOT / "tests" / "data" / "peers", 128

# name, source, settings
CHECKPOINTS = [
    ("gptqmodel-int4-g32-actorder", "llama", {"bits": 4, "group_size": 32, "sym": True, "desc_act": True,
                                              "act_group_aware": False}),
    ("gptqmodel-int4-g32-asymmetric-v1", "llama", {"bits": 4, "group_size": 32, "sym": False, "desc_act": False,
                                                   "format": "gptq"}),
    ("gptqmodel-int4-g32-asymmetric-v2", "qwen2", {"bits": 4, "group_size": 32, "sym": False, "desc_act": False,
                                                   "format": "gptq_v2"}),
    ("gptqmodel-int2-g32", "llama", {"bits": 2, "group_size": 32, "sym": True, "desc_act": False}),
    ("gptqmodel-int3-g32", "llama", {"bits": 3, "group_size": 32, "sym": True, "desc_act": False}),
    ("gptqmodel-int3-g32-asymmetric-v2", "llama", {"bits": 3, "group_size": 32, "sym": False, "desc_act": False,
                                                   "format": "gptq_v2"}),
    ("gptqmodel-int8-channel", "llama", {"bits": 8, "group_size": -1, "sym": True, "desc_act": False,
                                "act_group_aware": False}),
    ("gptqmodel-awq-int4-g32", "llama-tied", {"bits": 4, "group_size": 32, "sym": False, "quant_method": "awq",
                                         "format": "gemm"}),
]


def make(source, folder, settings, ids):
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):  # it leaves logs where it runs
        gptqmodel_reference.copy_with_tokenizer(TINY / source, temporary + "/source")
        examples = [{"input_ids": torch.tensor(window)[None], "attention_mask": torch.ones(1, LENGTH, dtype=torch.long)}
                    for window in windows_of(ids, LENGTH).astype(np.int64)]
        # its AWQ packs only F16 and BF16; its GPTQ needs float32 on two cores
        dtype = torch.float16 if settings.get("quant_method") == "awq" else torch.float32
        model = GPTQModel.load(temporary + "/source", QuantizeConfig(offload_to_disk=False, **settings), dtype=dtype,
                               device="cpu")
        model.quantize(examples, batch_size=1)
        model.save(temporary + "/saved")
        folder.mkdir(parents=True)
        for name in ("config.json", "quantize_config.json", "model.safetensors"):
            shutil.copy(temporary + "/saved/" + name, folder / name)


def nll_of(folder, source, weights, ids):
    """In float32: the saved model's other tensors in the source's architecture, the weights put in."""
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY / source, dtype="float32").eval()
    tensors = gptqmodel_reference.tensors(folder)
    if model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    state = model.state_dict()
    for name in state:
        module = name.removesuffix(".weight")
        state[name] = weights[module].float() if module in weights else tensors[name].float()
    model.load_state_dict(state)
    return nll_of_windows(model, windows_of(ids, LENGTH)).mean()


def main():
    ids = np.load(TINY / "ids.npy")
    results = {}
    for name, source, settings in CHECKPOINTS:
        folder, awq = PEERS / name, settings.get("quant_method") == "awq"
        with contextlib.redirect_stdout(sys.stderr):
            if not folder.exists():
                make(source, folder, settings, ids)
            weights, _ = gptqmodel_reference.weights(folder, awq)
        results[name] = {
            "source": f"tests/data/tiny/{source}", "ids": "tests/data/tiny/ids.npy", "seq_len": LENGTH,
            "nll": nll_of(folder, source, weights, ids),
            "weights_f16_crc32": {module: zlib.crc32(weight.numpy().tobytes())
                                  for module, weight in sorted(weights.items())},
        }
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
        print("done:", name, results[name]["nll"], config["format"], flush=True)
    write_golden("peers_gptqmodel", {"made_by": provenance("gptqmodel", "torch", "transformers"), "results": results})


if __name__ == "__main__":
    main()
