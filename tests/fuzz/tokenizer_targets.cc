// Files of tokenizers: what opens also encodes and decodes a text.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf/metadata.h"
#include "src/model/tokenizer.h"
#include "src/model/tokenizer_gguf.h"
#include "tests/fuzz/inputs.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/target_rows.h"

namespace nibble {
namespace {

constexpr std::string_view kText =
    "abba  <s> caf\u00e9 \u4e2d\u6587 don't 12345\n\n\tab \U0001F600 </s>";

void open_and_encode(const std::string& folder) {
  const Tokenizer tokenizer = Tokenizer::open(scratch_folder() / folder);
  tokenizer.decode(tokenizer.encode(kText), false);
}

// ---- tokenizer.json -----------------------------------------------------------------------------

void run_tokenizer_json(std::string_view input) {
  const auto files = files_of(input, 2);
  scratch("tokenizer-json/tokenizer_config.json", files[0]);
  scratch("tokenizer-json/tokenizer.json", files[1]);
  open_and_encode("tokenizer-json");
}

constexpr const char* kByteLevel = R"json({
  "added_tokens": [
    {"id": 3, "content": "<s>", "special": true, "normalized": false},
    {"id": 4, "content": "</s>", "lstrip": true, "rstrip": true, "single_word": true}],
  "normalizer": {"type": "Sequence", "normalizers": [
    {"type": "NFC"}, {"type": "Lowercase"}, {"type": "StripAccents"}, {"type": "Strip"},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    {"type": "Replace", "pattern": {"String": "b"}, "content": "a"}, {"type": "NFKD"}]},
  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
    {"type": "Digits", "individual_digits": true},
    {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}| ?[^\\s\\p{L}]+|\\s+(?!\\S)"},
     "behavior": "Isolated", "invert": false},
    {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]},
  "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"},
    {"type": "TemplateProcessing",
     "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}}],
     "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}}]},
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "unk_token": "b", "fuse_unk": true, "ignore_merges": true,
            "vocab": {"a": 0, "b": 1, "ab": 2, "aba": 5}, "merges": ["a b", ["ab", "a"]]}
})json";

constexpr const char* kMetaspace = R"({
  "added_tokens": [{"id": 0, "content": "<unk>", "special": true, "normalized": false}],
  "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]},
  "pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": true},
  "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "_"}, "content": " "},
    {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
  "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true,
            "vocab": {"<unk>": 0, "<0x61>": 1, "a": 2, "_": 3, "_a": 4}, "merges": ["_ a"]}
})";

constexpr const char* kConfig =
    R"({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
  "eos_token": {"content": "</s>"}, "add_bos_token": true, "add_prefix_space": true,
  "additional_special_tokens": ["<s>"],
  "added_tokens_decoder": {"7": {"content": "<x>", "special": true}}})";
constexpr const char* kLlamaConfig = R"({"tokenizer_class": "LlamaTokenizer", "legacy": false,
  "unk_token": "<unk>", "add_bos_token": false})";

std::vector<std::string> tokenizer_json_seeds() {
  return {input_of({"{}", kByteLevel}), input_of({kConfig, kByteLevel}),
          input_of({"{}", kMetaspace}), input_of({kLlamaConfig, kMetaspace})};
}

// ---- vocab.json and merges.txt ------------------------------------------------------------------

void run_vocab_merges(std::string_view input) {
  const auto files = files_of(input, 3);
  scratch("vocab-merges/tokenizer_config.json", files[0]);
  scratch("vocab-merges/vocab.json", files[1]);
  scratch("vocab-merges/merges.txt", files[2]);
  open_and_encode("vocab-merges");
}

std::vector<std::string> vocab_merges_seeds() {
  const std::string vocab = R"({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3, "aba": 4})";
  const std::string merges = "#version: 0.2\na b\nab a\n";
  return {input_of({R"({"tokenizer_class": "GPT2Tokenizer"})", vocab, merges}),
          input_of({R"({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "ab"})", vocab, merges})};
}

// ---- tokenizer.model ----------------------------------------------------------------------------

void run_sentencepiece(std::string_view input) {
  const auto files = files_of(input, 2);
  scratch("sentencepiece/tokenizer_config.json", files[0]);
  scratch("sentencepiece/tokenizer.model", files[1]);
  open_and_encode("sentencepiece");
}

std::vector<std::string> sentencepiece_seeds() {
  GgufMetadata metadata("seed");
  metadata.set("tokenizer.ggml.model", std::string("llama"));
  metadata.set("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", "<0x61>",
                                                                 "\u2581", "a", "b", "ab"});
  metadata.set("tokenizer.ggml.scores", std::vector<float>{0, 0, 0, 0, -1, -2, -3, -4});
  metadata.set("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 3, 6, 1, 1, 1, 1});
  const std::string model = gguf_tokenizer_files(metadata).front().bytes;
  std::string unigram = model;  // trainer_spec.model_type BPE is the only such pair of bytes
  if (const size_t type = unigram.find("\x18\x02"); type != std::string::npos)
    unigram[type + 1] = 1;
  // A table of characters whose trie is 256 units without children, in field 3 of the model.
  std::string table(4 + 1024 + 1, '\0');
  table[1] = 4;
  const std::string with_table = model + std::string("\x1A\x88\x08\x12\x85\x08", 6) + table;
  return {input_of({"{}", model}), input_of({kLlamaConfig, model}), input_of({"{}", unigram}),
          input_of({"{}", with_table})};
}

void run_tiktoken(std::string_view input) {
  scratch("tiktoken/tokenizer.model", input);
  open_and_encode("tiktoken");
}

std::vector<std::string> tiktoken_seeds() { return {"IQ== 0\nIg== 1\nIw== 2\r\n\nIyM= 3\n"}; }

}  // namespace

const FuzzTarget kTokenizerJsonTarget = {.name = "tokenizer-json",
                                         .reads = "tokenizer_config.json and tokenizer.json",
                                         .run = run_tokenizer_json,
                                         .seeds = tokenizer_json_seeds};
const FuzzTarget kVocabMergesTarget = {.name = "vocab-merges",
                                       .reads = "tokenizer_config.json, vocab.json and merges.txt",
                                       .run = run_vocab_merges,
                                       .seeds = vocab_merges_seeds};
const FuzzTarget kSentencePieceTarget = {
    .name = "sentencepiece",
    .reads = "tokenizer_config.json and a SentencePiece tokenizer.model",
    .run = run_sentencepiece,
    .seeds = sentencepiece_seeds};
const FuzzTarget kTiktokenTarget = {
    .name = "tiktoken", .reads = "tiktoken ranks", .run = run_tiktoken, .seeds = tiktoken_seeds};

}  // namespace nibble
