"""Mean nll of real models by transformers in float32: tests/golden/evaluate.json.

Needs torch, transformers and the data folder named by NIBBLE_TEST_DATA (about 20 minutes on two cores).
"""

import hashlib
import json
import os
import pathlib

import numpy as np
import transformers

from perplexity import evaluate_hf, evaluate_llama_cpp
from provenance import provenance, write_golden

DATA = pathlib.Path(os.environ["NIBBLE_TEST_DATA"])
SAMPLE = "tests/data/books.eval.sample.txt"
LENGTH = 512


def text_of(path):
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines()
        return "\n\n".join(json.loads(line)["text"] for line in lines if line)
    return path.read_bytes().decode("utf-8")


def main():
    results = {}
    for name, dataset, limit in [
            ("models/bookworm-5m", SAMPLE, None),
            ("models/bookworm-5m", "text/books.eval.txt", None),
            ("models/bookworm-5m", "text/books.eval.txt", 128),
            ("models/bookworm-5m", "text/books.eval.txt", 16),
            ("models/bookworm-5m", "text/wikitext2.test.raw", None),
            ("models/tinystories-656k", "text/tinystories.eval.jsonl", 64),
            ("models/tinystories-656k", "text/wikitext2.test.raw", 64),
            ("models/tinystories-656k-f32-tied", "text/tinystories.eval.jsonl", 64),
            ("models/tinystories-656k-f32-tied", "text/wikitext2.test.raw", 64)]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(DATA / name)
        model = transformers.AutoModelForCausalLM.from_pretrained(DATA / name, dtype="float32").eval()
        path = pathlib.Path(__file__).resolve().parents[2] / dataset if dataset == SAMPLE else DATA / dataset
        ids = tokenizer(text_of(path))["input_ids"]
        bos = tokenizer.bos_token_id
        adds_bos = bool(ids) and ids[0] == bos
        row = {
            "ids": len(ids),
            "ids_sha256": hashlib.sha256(np.asarray(ids, dtype="<i4").tobytes()).hexdigest(),
            "tokenizer_adds_bos": adds_bos,
            "hf": evaluate_hf(model, ids, LENGTH, limit),
            "llama.cpp": evaluate_llama_cpp(model, ids, LENGTH, bos if adds_bos else None, limit),
            "llama.cpp with bos": evaluate_llama_cpp(model, ids, LENGTH, bos, limit),
        }
        key = f"{name} {dataset} {limit or 'all'}"
        results[key] = row
        print(key, row["ids"], row["hf"]["nll"], row["llama.cpp"]["nll"], flush=True)
    write_golden("evaluate", {
        "made_by": provenance("torch", "transformers", "tokenizers"),
        "seq_len": LENGTH,
        "key": "model, dataset, windows; llama.cpp: the first id replaced by BOS only where the tokenizer adds one",
        "results": results,
    })


if __name__ == "__main__":
    main()
