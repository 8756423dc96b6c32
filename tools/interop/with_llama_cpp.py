"""llama.cpp, on the CPU, reads what `nibble quantize -f gguf` writes, and nibble what llama.cpp's encoders and gguf-py write.

    python tools/interop/with_llama_cpp.py [--keep] [CASE]      after tools/build; needs numpy, tokenizers, transformers, torch,
                                                                gguf and xllamacpp (which is llama.cpp's library)

nll    over windows of ids: llama.cpp's forward pass (which rounds activations to 8 bits, and keys and values to F16)
       against `nibble evaluate` of the same file, 2e-3 relative
ids    llama.cpp's tokenizer on the file against the tokenizers library on the model's folder
"""

import functools
import pathlib
import tempfile

import gguf
import numpy as np
import tokenizers

import llama_cpp
import small_models
from nibble_program import ROOT, nibble
from score import READS, WRITES, Score

TYPES = ["q8_0", "q6_k", "q5_1", "q5_k", "q5_0", "q4_1", "q4_k", "q4_0", "iq4_nl", "iq4_xs", "mxfp4", "q3_k", "q2_k"]
MIXTURES = ["q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k_m"]
TINY = ROOT / "tests" / "data" / "tiny"
BOOKWORM = ROOT / "tests" / "data" / "bookworm-5m"
TEXT = ROOT / "tests" / "data" / "books.eval.sample.txt"
LIMIT = 2e-3

# Of tests/data/tiny, whose rows fit few types. The mistral has a sliding window, which is refused.
ROPES = ["llama", "llama-biases", "llama-llama3-rope", "llama-linear-rope", "llama-tied", "qwen3"]
NARROW = ["qwen2", "qwen2-tied", "gpt2", "gpt2-hub-names"]  # rows of 48 weights fit no type

# model, type of the linear layers, with "gptq" codes chosen on the text's first windows
OURS = ([("bookworm-5m", kind) for kind in ["dense", *TYPES, *MIXTURES, *(f"gptq {t}" for t in TYPES)]]
        + [(name, kind) for name in ("qwen2", "gpt2") for kind in [*TYPES, "gptq q4_k", "gptq q4_0", "gptq iq4_nl"]]
        + [("tiny/" + name, kind) for name in ROPES for kind in ["dense", "q8_0"]]
        + [("tiny/" + name, "dense") for name in NARROW])
THEIRS = [(model, kind) for model in ("bookworm-5m", "gpt2") for kind in TYPES]


@functools.cache
def ids_of_text():
    tokenizer = tokenizers.Tokenizer.from_file(str(BOOKWORM / "tokenizer.json"))
    return np.array(tokenizer.encode(TEXT.read_text(encoding="utf-8"), add_special_tokens=False).ids)


def source(model, folder):
    """Its folder, the ids that it is evaluated on, and the tokens of a window."""
    if model == "bookworm-5m":
        return BOOKWORM, ids_of_text(), 512
    ids = np.load(small_models.IDS)
    if model.startswith("tiny/"):
        return TINY / model.removeprefix("tiny/"), ids, 64
    return small_models.make(model, folder / model), ids, small_models.LENGTH


def quantize(model, kind, ids, folder, file):
    options = ["--scheme", "q8_0", "--exclude", "."] if kind == "dense" else ["--scheme", kind.split()[-1]]
    if kind.startswith("gptq"):
        np.save(folder / "calibration.npy", ids[:2048].astype(np.uint16))
        options += ["-m", "gptq", "-d", folder / "calibration.npy", "--seq-len", 128]
    nibble("quantize", model, "-o", file, "-f", "gguf", *options)


def quantize_by_ggml(model, kind, folder, file):
    """gguf-py's copy of our dense file, whose matrices in blocks are ggml's."""
    quantize(model, "dense", None, folder, folder / "dense.gguf")
    reader = gguf.GGUFReader(folder / "dense.gguf")
    writer = gguf.GGUFWriter(file, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type", "nibble.manifest"):
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub_type)
    block_type = gguf.GGMLQuantizationType[kind.upper()]
    for tensor in reader.tensors:
        data = np.array(tensor.data)
        is_linear = tensor.name.startswith("blk.") and data.ndim == 2
        if is_linear:
            data = llama_cpp.quantize(block_type.value, data.astype(np.float32)).reshape(len(data), -1)
        writer.add_tensor(tensor.name, data, raw_dtype=block_type if is_linear else tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def nll_of_both(file, ids, length, folder):
    windows = ids[:min(8, len(ids) // length) * length].reshape(-1, length)
    np.save(folder / "ids.npy", windows.ravel().astype(np.uint16))
    ours = nibble("evaluate", file, "-d", folder / "ids.npy", "--seq-len", length)["nll"]
    return ours, llama_cpp.Model(file, length).nll(windows)


def check(score, direction, model, kind, folder):
    name = f"{model} {kind}"
    path, ids, length = source(model, folder)
    file = folder / "model.gguf"
    if direction == READS:
        quantize(path, kind, ids, folder, file)
    else:
        quantize_by_ggml(path, kind, folder, file)

    def dense():
        nibble("export", file, "-f", "dense", "--dtype", "f32", "-o", folder / "multiplied")
        quantize(folder / "multiplied", "dense", ids, folder, folder / "multiplied.gguf")
        return nll_of_both(folder / "multiplied.gguf", ids, length, folder)

    score.cell("gguf", direction, name, nll_of_both(file, ids, length, folder), LIMIT, dense)
    if model == "bookworm-5m" and direction == READS and kind == "dense":
        ids_of_peer = llama_cpp.Model(file, length).tokenize(TEXT.read_text(encoding="utf-8"), False)
        score.check(f"{name} ids", np.array_equal(ids_of_peer, ids), f"{len(ids)} of the text")


def main():
    score = Score("llama.cpp", "xllamacpp", "gguf")
    for direction, cases in ((READS, OURS), (WRITES, THEIRS)):
        for model, kind in cases:
            if score.wants(f"{direction} {model} {kind}"):
                with score.case(f"{direction} {model} {kind}"), tempfile.TemporaryDirectory() as folder:
                    check(score, direction, model, kind, pathlib.Path(folder))
    score.exit()


if __name__ == "__main__":
    main()
