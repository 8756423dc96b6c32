"""transformers + bitsandbytes, on the CPU in float32, read what `nibble quantize` writes, and nibble what they write.

    python tools/interop/with_bitsandbytes.py [--keep] [CASE]      after tools/build; needs torch, transformers, bitsandbytes,
                                                                   accelerate, tokenizers

nll      over windows of ids: the peer's forward pass against `nibble evaluate` of the same folder, 1e-3 relative
weights  bitsandbytes' own dequantization of every layer against `nibble export -f dense --dtype f16`, bit for bit; LLM.int8:
         integers and SCB of every layer against what bitsandbytes makes of the original. Its nll is that of quantized
         activations.
"""

import os
import pathlib
import tempfile

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # a compilation for every shape

# pylint: disable=wrong-import-position
import bitsandbytes.functional as bnb
import torch
import transformers

import small_models
from nibble_program import nibble
from score import READS, WRITES, Score
from with_compressed_tensors import MODEL, Case

KINDS = {
    "nf4": (["-m", "nf4"], {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "nf4 double-quantized": (["-m", "nf4", "--double-quant"],
                             {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}),
    "fp4": (["-m", "fp4"], {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}),
    "LLM.int8": (["--scheme", "llm-int8"], {"load_in_8bit": True}),
}
LIMIT = 1e-3


def load(folder, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", **options).eval()


def compare_weights(score, name, peer, case):
    dense = transformers.AutoModelForCausalLM.from_pretrained(case.dense("f16"), dtype="float16").state_dict()
    layers = [(key, module) for key, module in peer.named_modules() if type(module).__name__ == "Linear4bit"]
    same = [key for key, module in layers
            if torch.equal(bnb.dequantize_4bit(module.weight.data, module.weight.quant_state).half(), dense[key + ".weight"])]
    score.check(f"{name}: weights", layers and len(same) == len(layers), f"{len(same)} of {len(layers)} layers equal bit for bit")


def compare_integers(score, name, peer, source):
    config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source, quantization_config=config, device_map="cpu").state_dict()
    ours = peer.state_dict()
    keys = [key for key in theirs if key.endswith(".SCB") or theirs[key].dtype == torch.int8]
    same = [key for key in keys if torch.equal(theirs[key], ours[key])]
    score.check(f"{name}: weights", keys and len(same) == len(keys), f"{len(same)} of {len(keys)} tensors equal bit for bit")


def check(score, model, kind, direction, folder):
    name = f"{'bookworm-5m' if model == MODEL else model} {kind}"
    if not score.wants(f"{direction} {name}"):
        return
    source = MODEL if model == MODEL else small_models.make(model, folder / "source")
    options, settings = KINDS[kind]
    quantized = folder / "quantized"
    if direction == READS:
        nibble("quantize", source, "-o", quantized, *options)
    else:
        load(source, quantization_config=transformers.BitsAndBytesConfig(**settings)).save_pretrained(quantized)
    case = Case(model, folder, quantized)
    peer = load(quantized)
    if direction == READS and model == MODEL:
        if kind == "LLM.int8":
            compare_integers(score, name, peer, source)
        else:
            compare_weights(score, name, peer, case)
    score.cell("bitsandbytes", direction, name, (case.ours(), case.nll(peer)), LIMIT)


def main():
    torch.set_num_threads(1)
    score = Score("transformers + bitsandbytes", "transformers", "bitsandbytes", "torch")
    for direction in (READS, WRITES):
        for model in (MODEL, "qwen2", "gpt2"):
            for kind in KINDS:
                with score.case(f"{direction} {model} {kind}"), tempfile.TemporaryDirectory() as folder:
                    check(score, model, kind, direction, pathlib.Path(folder))
    score.exit()


if __name__ == "__main__":
    main()
