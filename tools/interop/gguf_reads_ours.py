"""llama.cpp, on the CPU, reads what `nibble quantize -f gguf` writes, and nibble what llama.cpp wrote.

    python tools/interop/gguf_reads_ours.py [CASE]      after tools/build; needs numpy, tokenizers, xllamacpp (which
                                                        is llama.cpp's library); CASE: only those whose name has it

nll    over windows of ids: llama.cpp's forward pass (which rounds activations to 8 bits, and keys and values to F16)
       against `nibble evaluate` of the same file, 2e-3 relative
ids    llama.cpp's tokenizer on the file against the tokenizers library on the model's folder
"""

import pathlib
import sys
import tempfile

import numpy as np

import llama_cpp
from nibble_program import ROOT, Score, nibble

TYPES = ["q8_0", "q6_k", "q5_1", "q5_k", "q5_0", "q4_1", "q4_k", "q4_0", "iq4_nl", "iq4_xs", "mxfp4", "q3_k", "q2_k"]
TINY = ROOT / "tests" / "data" / "tiny"
BOOKWORM = ROOT / "tests" / "data" / "bookworm-5m"
TEXT = ROOT / "tests" / "data" / "books.eval.sample.txt"

LLAMAS = ["llama", "llama-biases", "llama-llama3-rope", "llama-linear-rope", "llama-tied", "qwen3"]
MIXTURES = ["q5_k_m", "q4_k_m", "q3_k_m", "q2_k_m"]
NARROW = ["qwen2", "qwen2-tied", "gpt2", "gpt2-hub-names"]  # rows of 48 weights fit no type

# name, model, type of the linear layers ("gptq TYPE": codes chosen on the text's first windows), tokens of a window. The tiny mistral has a sliding window, which is refused.
CASES = ([(f"bookworm {t}", BOOKWORM, t, 512) for t in [*TYPES, *MIXTURES, "gptq q4_k", "gptq iq4_nl", "gptq q2_k"]]
         + [(f"{name} {t}", TINY / name, t, 64) for name in LLAMAS for t in ["dense", "q8_0"]]
         + [(f"{name} dense", TINY / name, "dense", 64) for name in NARROW])


def check(score, name, model, kind, length, folder):
    file = folder / "model.gguf"
    options = ["--scheme", "q8_0", "--exclude", "."] if kind == "dense" else ["--scheme", kind.split()[-1]]
    if kind.startswith("gptq"):
        options += ["-m", "gptq", "-d", TEXT, "--samples", 8, "--seq-len", 256]
    nibble("quantize", model, "-o", file, "-f", "gguf", *options)
    peer = llama_cpp.Model(file, length)
    if model == BOOKWORM:
        import tokenizers  # pylint: disable=import-outside-toplevel
        text = TEXT.read_text()
        ids = np.array(tokenizers.Tokenizer.from_file(str(model / "tokenizer.json")).encode(text, add_special_tokens=False).ids)
        score.check(f"{name} ids", np.array_equal(peer.tokenize(text, False), ids), f"{len(ids)} of the text")
    else:
        ids = np.load(TINY / "ids.npy")
    count = min(8, len(ids) // length)
    windows = ids[:count * length].reshape(count, length)
    np.save(folder / "ids.npy", windows.ravel().astype(np.uint16))
    ours = nibble("evaluate", file, "-d", folder / "ids.npy", "--seq-len", length)["nll"]
    score.relative(f"{name} nll", ours, peer.nll(windows), 2e-3)


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    score = Score()
    for name, model, kind, length in CASES:
        if wanted not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            check(score, name, model, kind, length, pathlib.Path(folder))
    score.exit()


if __name__ == "__main__":
    main()
