"""Tiny random models of every architecture, made and evaluated by transformers in float32.

Writes tests/data/tiny/NAME (config.json as transformers 5 saves it, config.v4.json as version 4 did) and
tests/golden/tiny_models.json. Weights are far larger than a fresh model's, so that the logits are not flat.
"""

import json
import os
import shutil

import numpy as np
import safetensors.torch
import torch
import transformers

from perplexity import nll_of_windows, windows_of
from provenance import ROOT, provenance, write_golden

VOCABULARY, LENGTH, WINDOWS = 288, 128, 4
FOLDER = ROOT / "tests" / "data" / "tiny"
LLAMA = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
         "bos_token_id": 0, "eos_token_id": 1}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}

# name, config class, stored type, what differs from LLAMA
MODELS = [
    ("llama", "Llama", "float16", {"num_key_value_heads": 4}),
    ("llama-tied", "Llama", "bfloat16", {"tie_word_embeddings": True, "num_key_value_heads": 4,
                                          "intermediate_size": 128}),
    ("llama-llama3-rope", "Llama", "bfloat16", {"rope_parameters": LLAMA3_ROPE}),
    ("llama-linear-rope", "Llama", "float16", {"rope_parameters": LINEAR_ROPE}),
    ("llama-biases", "Llama", "float16", {"attention_bias": True, "mlp_bias": True}),
    ("mistral", "Mistral", "float16", {"sliding_window": 24, "head_dim": 24}),
    ("qwen2", "Qwen2", "bfloat16", {"tie_word_embeddings": False}),
    ("qwen2-tied", "Qwen2", "float32", {"tie_word_embeddings": True, "hidden_size": 48, "intermediate_size": 64}),
    ("qwen3", "Qwen3", "bfloat16", {"head_dim": 32, "tie_word_embeddings": True}),
    ("gpt2", "GPT2", "float32", {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": LENGTH}),
]


def make(kind, difference):
    if kind == "GPT2":
        base = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1}
    else:
        base = LLAMA
    config = getattr(transformers, kind + "Config")(**{**base, **difference})
    model = getattr(transformers, kind + ("LMHeadModel" if kind == "GPT2" else "ForCausalLM"))(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
            elif "wpe" in name or "embed" in name or "wte" in name:
                parameter.normal_(0, 0.5)
            else:
                parameter.normal_(0, 0.2)
    return model


def version4(config):
    """The same configuration as transformers 4 wrote it."""
    config = dict(config)
    rope = config.pop("rope_parameters", None)
    if rope:
        config["rope_theta"] = rope["rope_theta"]
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        config["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    config["transformers_version"] = "4.46.0"
    return dict(sorted(config.items()))


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype="float32", attn_implementation="eager").eval()


def hub_names(folder, hub):
    """openai-community/gpt2's own layout: no `transformer.` prefix, and the causal masks stored as buffers."""
    hub.mkdir()
    for name in ("config.json", "config.v4.json"):
        shutil.copy(folder / name, hub / name)
    tensors = {name.removeprefix("transformer."): tensor
               for name, tensor in safetensors.torch.load_file(folder / "model.safetensors").items()}
    mask = torch.tril(torch.ones(LENGTH, LENGTH, dtype=torch.uint8)).view(1, 1, LENGTH, LENGTH)
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = mask.clone()
    safetensors.torch.save_file(tensors, hub / "model.safetensors", metadata={"format": "pt"})


def reference(folder, ids):
    model = load(folder)
    windows = windows_of(ids, LENGTH)
    nll = nll_of_windows(model, windows)
    with torch.inference_mode():
        logits = model(torch.as_tensor(windows.astype(np.int64))).logits
    places = [(0, 0), (0, LENGTH - 1), (1, 60), (WINDOWS - 1, LENGTH - 1)]
    return {
        "seq_len": LENGTH, "windows": WINDOWS, "tokens": nll.size, "nll": nll.mean(),
        "nll_of_window": nll.mean(axis=1).tolist(),
        "logit_std": float(logits.std()),
        "logits": [{"window": w, "position": p, "argmax": int(logits[w, p].argmax()),
                    "first": [float(np.float32(x)) for x in logits[w, p, :6]]} for w, p in places],
    }


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    ids = np.random.RandomState(1).randint(0, VOCABULARY, WINDOWS * LENGTH).astype("<u2")
    np.save(FOLDER / "ids.npy", ids)
    results = {}
    for seed, (name, kind, dtype, difference) in enumerate(MODELS):
        torch.manual_seed(seed)
        folder = FOLDER / name
        make(kind, difference).to(getattr(torch, dtype)).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        write_json(folder / "config.v4.json", version4(config))
        results[name] = reference(folder, ids)

        os.rename(folder / "config.json", folder / "config.v5.json")
        shutil.copy(folder / "config.v4.json", folder / "config.json")
        assert reference(folder, ids)["nll"] == results[name]["nll"], f"{name}: config.v4.json means another model"
        os.rename(folder / "config.v5.json", folder / "config.json")
        print(name, results[name]["nll"], results[name]["logit_std"],
              (folder / "model.safetensors").stat().st_size, flush=True)

    hub_names(FOLDER / "gpt2", FOLDER / "gpt2-hub-names")
    results["gpt2-hub-names"] = reference(FOLDER / "gpt2-hub-names", ids)
    assert results["gpt2-hub-names"] == results["gpt2"]

    model = load(FOLDER / "mistral")
    model.config.sliding_window = None
    unlimited = nll_of_windows(model, windows_of(ids, LENGTH)).mean()
    assert abs(unlimited - results["mistral"]["nll"]) > 1e-3, "the sliding window makes no difference"
    write_golden("tiny_models", {
        "made_by": provenance("torch", "transformers", "safetensors"),
        "ids": "tests/data/tiny/ids.npy",
        "results": results,
    })


if __name__ == "__main__":
    main()
