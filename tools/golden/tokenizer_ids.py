"""Token ids by Hugging Face tokenizers: whole texts with real tokenizers, and short hard texts with variants
of every section of tokenizer.json. Writes tests/golden/tokenizers.json (counts and CRC-32 of the ids as int32).

Needs NIBBLE_TEST_DATA. `--show VARIANT` prints the ids of one variant instead.
"""

import array
import base64
import copy
import json
import os
import pathlib
import sys
import zlib

import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from provenance import ROOT, provenance

DATA = pathlib.Path(os.environ["NIBBLE_TEST_DATA"])
BOOKWORM = ROOT / "tests" / "data" / "bookworm-5m" / "tokenizer.json"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
            r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]

TEXTS = [
    "", " ", "  ", "a", "Hello world", " Hello  World ", "Hello, y'all! It's I'LL they'Re we'ſ don't",
    "\n", "\n\n\n", "\r\n\r\n x\r\ny", "\t\tif (x == 10) {\n\t\t\treturn 12345678;  // 3.14\n\t\t}\n   ",
    "caf\u00e9 cafe\u0301 \u00c5ngstr\u00f6m \u212b \ufb01ne \u00bd \u2460 \uff21\uff22 \u0130stanbul \u1e9e \u01c5",
    "\u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929\uff5e \u3053\u3093\u306b\u3061\u306f \uc548\ub155 \u1780\u17b6\u1793\u17cb\u178f\u17c2",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f \u2705 \U0001f1e9\U0001f1ea \U0001d54f\U0001d7d9 \U00020000\U0002a6d6",
    "x\u00a0y\u2003z\u3000w\u2028v\u180eu\u200bt\x85s\x0br\x0cq\x1cp\x00o", "\u2581\u2581a \u2581b\u2581 c",
    "a<s>b<s> c </s>  d<|x|> e <|x|>f <|word|> g<|word|>h <|word|>, \u00e9<|word|> <|NORM|> <|norm|>",
    "<|endoftext|><|endoftext|> <|bos|>x", "<0x41><0xE2> <unk> [UNK]", "-a--b - c_d.e-", "!!??..,,;;''\"\"``",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "The quick brown fox, whom nobody had ever seen before, jumped over 3 lazy dogs in 1843; they never woke.",
    "word " * 120, "\u00e9\u00e8" * 150 + " x", " " * 300 + "y",
]


def sequence(*parts):
    return pre_tokenizers.Sequence(list(parts))


def split(pattern, behavior, invert=False):
    return pre_tokenizers.Split(pattern, behavior, invert)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
ADDED = [AddedToken("<s>", lstrip=True, special=True), AddedToken("</s>", rstrip=True, special=True),
         AddedToken("<|x|>", lstrip=True, rstrip=True, normalized=False), AddedToken("<|x|> e", normalized=False),
         AddedToken("<|word|>", single_word=True, normalized=False), AddedToken("<|NORM|>", normalized=True)]


def byte_level_variants():
    """name, sections of the tokenizer that differ from bookworm-5m's."""
    yield "byte level with prefix space", {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}
    yield "byte level without pattern", {"pre_tokenizer": BYTES}
    for name, pattern in (("llama 3", LLAMA3), ("cl100k", CL100K), ("o200k", O200K)):
        yield name, {"pre_tokenizer": sequence(split(Regex(pattern), "isolated"), BYTES)}
    yield "deepseek v3", {"pre_tokenizer": sequence(*(split(Regex(p), "isolated") for p in DEEPSEEK), BYTES)}
    yield "falcon", {"pre_tokenizer": sequence(pre_tokenizers.Punctuation("contiguous"), GPT2,
                                               pre_tokenizers.Digits(False), split(Regex("[0-9][0-9][0-9]"), "isolated"))}
    yield "starcoder", {"pre_tokenizer": sequence(pre_tokenizers.Digits(True), GPT2)}
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        yield f"punctuation {behavior}", {"pre_tokenizer": sequence(pre_tokenizers.Punctuation(behavior), BYTES)}
        yield f"spaces {behavior}", {"pre_tokenizer": sequence(split(" ", behavior), BYTES)}
        yield f"letters inverted {behavior}", {"pre_tokenizer": sequence(split(Regex(r"\p{L}+"), behavior, True), BYTES)}
    yield "look-ahead", {"pre_tokenizer": sequence(split(Regex(r"(?=[A-Z])"), "isolated"), BYTES)}
    yield "lines", {"pre_tokenizer": sequence(split(Regex(r"^.*$"), "isolated"), BYTES)}
    yield "words and scripts", {"pre_tokenizer": sequence(split(Regex(r"\w+|\p{Han}+|[\s\d]"), "isolated"), BYTES)}
    yield "whitespace", {"pre_tokenizer": sequence(pre_tokenizers.Whitespace(), BYTES)}
    yield "whitespace split", {"pre_tokenizer": sequence(pre_tokenizers.WhitespaceSplit(), BYTES)}
    yield "delimiter", {"pre_tokenizer": sequence(pre_tokenizers.CharDelimiterSplit("-"), BYTES)}
    for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase"):
        yield form, {"normalizer": getattr(normalizers, form)()}
    yield "accents", {"normalizer": normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()])}
    yield "strip", {"normalizer": normalizers.Strip()}
    yield "strip left", {"normalizer": normalizers.Strip(right=False)}
    yield "replace pattern", {"normalizer": normalizers.Replace(Regex(r"\s{2,}"), "<>")}
    yield "byte normalizer", {"normalizer": normalizers.ByteLevel(), "pre_tokenizer": split("\u0120", "merged_with_next")}
    yield "whole words first", {"model": {"ignore_merges": True}}
    yield "added tokens", {"added": ADDED}
    yield "added tokens in lower case", {"added": ADDED, "normalizer": normalizers.Lowercase()}
    one = [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    both = [*one, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}]
    special = {name: {"id": name, "ids": [i], "tokens": [name]} for i, name in enumerate(("<|endoftext|>", "<|bos|>"))}
    template = {"type": "TemplateProcessing", "single": both, "pair": one, "special_tokens": special}
    yield "template", {"post_processor": template}
    plain = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    yield "template behind byte level", {"post_processor": {"type": "Sequence", "processors": [plain, template]}}
    yield "no decoder", {"decoder": None}


def piece_variants():
    """The same for the small SentencePiece-like model."""
    prepend = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    fused = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                               decoders.Strip(" ", 1, 0)])
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            yield f"metaspace {scheme} {'split' if cut else 'whole'}", {
                "pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme=scheme, split=cut), "added": ADDED[:2],
                "decoder": decoders.Metaspace(prepend_scheme=scheme)}
    yield "prepend and replace", {"normalizer": prepend, "decoder": fused}
    yield "prepend, bytes only", {"normalizer": prepend, "decoder": fused, "model": {"unk_token": None}}
    yield "prepend, unknown fused", {"normalizer": prepend, "model": {"byte_fallback": False, "fuse_unk": True}}
    yield "prepend, unknown single", {"normalizer": prepend, "model": {"byte_fallback": False, "fuse_unk": False}}
    yield "prepend, unknown dropped", {"normalizer": prepend, "model": {"byte_fallback": False, "unk_token": None}}


def section(value):
    if value is None or isinstance(value, (dict, list)):
        return value
    return json.loads(value.__getstate__())


def patched(base, patch):
    """tokenizer.json with sections replaced; returns it and what was replaced, in plain JSON."""
    result, plain = copy.deepcopy(base), {}
    for key, value in patch.items():
        if key == "added":
            first = 1 + max([*result["model"]["vocab"].values(), *(t["id"] for t in result["added_tokens"])])
            known = result["model"]["vocab"]
            plain["added_tokens"] = result["added_tokens"] + [
                {"id": known.get(t.content, first + i), "content": t.content, "single_word": t.single_word, "lstrip": t.lstrip,
                 "rstrip": t.rstrip, "normalized": t.normalized, "special": t.special} for i, t in enumerate(value)]
            result["added_tokens"] = plain["added_tokens"]
        elif key == "model":
            plain["model"] = value
            result["model"].update(value)
        else:
            plain[key] = result[key] = section(value)
    return result, plain


def small_piece_model():
    """Trained on bookworm's evaluation text: 300 pieces, all byte tokens but <0xC3>, three special tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256) if b != 0xC3]
    trainer = trainers.BpeTrainer(vocab_size=len(special) + 300, special_tokens=special, show_progress=False)
    text = (ROOT / "tests" / "data" / "books.eval.sample.txt").read_text(encoding="utf-8")
    tokenizer.train_from_iterator([text], trainer)
    result = json.loads(tokenizer.to_str())
    result["added_tokens"] = []
    result["pre_tokenizer"] = result["decoder"] = None
    return result


def crc_of_ids(ids):
    return zlib.crc32(array.array("i", ids).tobytes())


def crc_of_text(text):
    return zlib.crc32(text.encode("utf-8"))


def without_limits(tokenizer):
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def vectors(base, patch):
    whole, plain = patched(base, patch)
    tokenizer = without_limits(Tokenizer.from_str(json.dumps(whole)))
    encodings = [tokenizer.encode(text).ids for text in TEXTS]
    if sys.argv[1:2] == ["--show"]:
        return encodings
    result = {"patch": plain, "counts": [len(ids) for ids in encodings], "ids": [crc_of_ids(ids) for ids in encodings]}
    # The library names a normalized added token by its normalized form when it decodes, so that
    # special ones are not left out: decoding with those is not compared.
    if not any(token["normalized"] for token in whole["added_tokens"]):
        result["decoded"] = [crc_of_text(tokenizer.decode(ids)) for ids in encodings]
        result["decoded_with_special"] = [crc_of_text(tokenizer.decode(ids, skip_special_tokens=False)) for ids in encodings]
    return result


def llama3():
    """From the tiktoken ranks: a merge for every way to cut a token into two."""
    lines = (DATA / "tokenizers" / "llama3" / "tokenizer.model").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    letters = {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}
    spell = lambda token: "".join(letters[b] for b in token)
    merges = [(rank, ranks[token[:i]], ranks[token[i:]], token[:i], token[i:]) for token, rank in ranks.items()
              for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
    tokenizer = Tokenizer(models.BPE({spell(t): r for t, r in ranks.items()},
                                     [(spell(m[3]), spell(m[4])) for m in sorted(merges)], ignore_merges=True))
    tokenizer.pre_tokenizer = sequence(split(Regex(LLAMA3), "isolated"), BYTES)
    return tokenizer


def real_tokenizers():
    yield "models/bookworm-5m", Tokenizer.from_file(str(BOOKWORM))
    # transformers 5 makes more of a LlamaTokenizer that is not legacy than its tokenizer.json says.
    yield "models/tinystories-656k", transformers.AutoTokenizer.from_pretrained(DATA / "models" / "tinystories-656k").backend_tokenizer
    for name in ("tokenizers/gpt2", "tokenizers/llama2", "tokenizers/minimind"):
        yield name, Tokenizer.from_file(str(DATA / name / "tokenizer.json"))
    yield "tokenizers/qwen2", transformers.AutoTokenizer.from_pretrained(DATA / "tokenizers" / "qwen2").backend_tokenizer
    yield "tokenizers/llama3", llama3()


def read_texts():
    for name in ("books.eval.txt", "wikitext2.test.raw"):
        yield name, (DATA / "text" / name).read_bytes().decode("utf-8")
    lines = (DATA / "text" / "c4_sample.jsonl").read_text(encoding="utf-8").splitlines()
    yield "c4_sample.jsonl", "\n\n".join(json.loads(line)["text"] for line in lines)


def whole_texts():
    texts = dict(read_texts())
    for name, tokenizer in real_tokenizers():
        without_limits(tokenizer)
        encodings = {text: tokenizer.encode(content, add_special_tokens=False).ids for text, content in texts.items()}
        hard = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        yield name, {**{text: [len(ids), crc_of_ids(ids)] for text, ids in encodings.items()},
                     "hard": [crc_of_ids(ids) for ids in hard]}


def main():
    bases = {"bookworm-5m": json.loads(BOOKWORM.read_text(encoding="utf-8")), "pieces": small_piece_model()}
    all_variants = [("bookworm-5m", *v) for v in byte_level_variants()] + [("pieces", *v) for v in piece_variants()]
    if sys.argv[1:2] == ["--show"]:
        for base, name, patch in all_variants:
            if name == sys.argv[2]:
                for text, ids in zip(TEXTS, vectors(bases[base], patch)):
                    print(json.dumps(text), ids)
        return
    results = {"texts": TEXTS, "pieces": bases["pieces"],
               "variants": [{"name": name, "base": base, **vectors(bases[base], patch)} for base, name, patch in all_variants],
               "real": dict(whole_texts())}
    golden = {"made_by": provenance("tokenizers", "transformers"), "results": results}
    path = ROOT / "tests" / "golden" / "tokenizers.json"
    path.write_text(json.dumps(golden).replace('{"name"', '\n{"name"') + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes, tokenizers {tokenizers.__version__}")


if __name__ == "__main__":
    main()
