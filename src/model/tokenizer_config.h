// What tokenizer_config.json, special_tokens_map.json and config.json say about a tokenizer.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/json.h"
#include "src/model/added_tokens.h"
#include "src/model/json_view.h"

namespace nibble {

struct TokenizerConfig {
  std::string where;            // the file, for messages
  std::string tokenizer_class;  // without a final "Fast"; empty when nothing names it
  std::string model_type;       // of config.json; empty when absent
  std::optional<std::string> bos;
  std::optional<std::string> eos;
  std::vector<std::string> other_special;  // unknown, padding, additional special tokens, ...
  std::optional<bool> add_bos;
  std::optional<bool> add_eos;
  std::optional<bool> add_prefix_space;
  // LlamaTokenizer only. true: as SentencePiece has it, a prefix space in front of every text
  // between added tokens. false: only in front of the whole text, and only where there is none.
  bool legacy = true;
  std::vector<AddedToken> added;  // added_tokens_decoder
};

// Absent files are no error, broken ones are.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder);

// The content of a tokenizer_config.json. where: the file, for messages.
TokenizerConfig tokenizer_config_from(const Json& json, const std::string& where);

// An entry of added_tokens (tokenizer.json) or added_tokens_decoder, without its id.
AddedToken read_added_token(const JsonView& entry);

}  // namespace nibble
