"""Random models that are small but wide enough for every grid: rows are multiples of 256 weights."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "golden"))

# pylint: disable=wrong-import-position
import tiny_models
import torch

LENGTH = tiny_models.LENGTH
IDS = tiny_models.FOLDER / "ids.npy"
# name: class, stored type, what differs from tiny_models.py's
SMALL = {
    "qwen2": ("Qwen2", "bfloat16", {"hidden_size": 256, "intermediate_size": 512, "tie_word_embeddings": False}),
    "gpt2": ("GPT2", "float32", {"n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": LENGTH}),
}


def make(name, folder):
    """Into `folder`, weights as far apart in relation to the width as those of tiny_models.py."""
    kind, dtype, difference = SMALL[name]
    torch.manual_seed(7)
    model = tiny_models.make(kind, difference)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(0.5)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder
