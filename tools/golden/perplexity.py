"""Mean nll of a transformers model in float32, by both protocols of `nibble evaluate`.

hf         non-overlapping windows of L ids, the remainder dropped; ids 2..L of each are scored
llama.cpp  chunks of L ids; the first id of each is replaced by BOS where the tokenizer adds one; the
           predictions at positions L/2 .. L-2 are scored (llama.cpp, tools/perplexity/perplexity.cpp)
"""

import numpy as np
import torch


def nll_of_windows(model, windows, first=0):
    """-log p of ids[:, first+1:] in nats, float64 [windows, L-1-first]; the logits are float32."""
    rows = []
    with torch.inference_mode():
        for batch in torch.as_tensor(np.asarray(windows), dtype=torch.int64).split(4):
            logits = model(batch).logits[:, first:-1].double()
            targets = batch[:, first + 1:, None]
            rows.append((logits.logsumexp(-1) - logits.gather(-1, targets)[..., 0]).numpy())
    return np.concatenate(rows)


def windows_of(ids, length, limit=None):
    count = len(ids) // length
    if limit is not None:
        count = min(count, limit)
    return np.asarray(ids[:count * length]).reshape(count, length)


def summary(nll):
    """nll [windows, scored]. stderr of the mean: tokens taken as independent, and windows."""
    means = nll.mean(axis=1)
    return {
        "windows": nll.shape[0],
        "tokens": nll.size,
        "nll": nll.mean(),
        "perplexity": float(np.exp(nll.mean())),
        "nll_stderr_by_token": nll.std(ddof=1) / nll.size ** 0.5,
        "nll_stderr_by_window": means.std(ddof=1) / len(means) ** 0.5 if len(means) > 1 else None,
    }


def evaluate_hf(model, ids, length, limit=None):
    return summary(nll_of_windows(model, windows_of(ids, length, limit)))


def evaluate_llama_cpp(model, ids, length, bos=None, limit=None):
    windows = windows_of(ids, length, limit).copy()
    if bos is not None:
        windows[:, 0] = bos
    return summary(nll_of_windows(model, windows, first=length // 2))
