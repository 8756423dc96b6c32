// Keys of a tokenizer in GGUF metadata, and llama.cpp's names for the ways to cut words. Private to
// the two tokenizer_gguf files. Source: ggml, docs/gguf.md, and llama.cpp's src/llama-vocab.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "src/model/pretokenizer.h"

namespace nibble {

inline constexpr const char* kModel = "tokenizer.ggml.model";
inline constexpr const char* kPre = "tokenizer.ggml.pre";
inline constexpr const char* kTokens = "tokenizer.ggml.tokens";
inline constexpr const char* kTypes = "tokenizer.ggml.token_type";
inline constexpr const char* kScores = "tokenizer.ggml.scores";
inline constexpr const char* kMerges = "tokenizer.ggml.merges";
inline constexpr const char* kUnknown = "tokenizer.ggml.unknown_token_id";
inline constexpr const char* kBos = "tokenizer.ggml.bos_token_id";
inline constexpr const char* kEos = "tokenizer.ggml.eos_token_id";
inline constexpr const char* kPadding = "tokenizer.ggml.padding_token_id";
inline constexpr const char* kAddBos = "tokenizer.ggml.add_bos_token";
inline constexpr const char* kAddEos = "tokenizer.ggml.add_eos_token";
inline constexpr const char* kAddSpacePrefix = "tokenizer.ggml.add_space_prefix";
inline constexpr const char* kChatTemplate = "tokenizer.chat_template";

// Values of token_type, which are SentencePiece's too.
enum GgufTokenType : int32_t { kNormal = 1, kUnknownType, kControl, kUserDefined, kUnused, kByte };

// How llama.cpp cuts words under a name of 'tokenizer.ggml.pre'.
struct GgufPreTokenizer {
  std::string_view name;
  std::string_view pattern;    // empty: GPT-2's
  bool single_digits = false;  // cut off first
  bool whole_words = false;    // a word that is a token is not merged from its letters
  bool adds_bos = false;       // where the file does not say
};
inline constexpr std::array kPreTokenizers = {
    GgufPreTokenizer{"gpt-2", ""},
    GgufPreTokenizer{"phi-2", ""},
    GgufPreTokenizer{"qwen2", kQwen2Pattern},
    GgufPreTokenizer{"deepseek-r1-qwen", kQwen2Pattern},
    GgufPreTokenizer{"llama-bpe", kLlama3Pattern, false, true, true},
    GgufPreTokenizer{"llama-v3", kLlama3Pattern, false, true, true},
    GgufPreTokenizer{"llama3", kLlama3Pattern, false, true, true},
    GgufPreTokenizer{"smollm", "", true},
    GgufPreTokenizer{"starcoder", "", true},
    GgufPreTokenizer{"refact", "", true},
    GgufPreTokenizer{"command-r", "", true},
};

}  // namespace nibble
