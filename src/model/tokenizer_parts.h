// What a tokenizer is made of, whatever files it came from. tokenizer.cc runs the parts; each
// reader below makes them from one kind of file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "src/model/added_tokens.h"
#include "src/model/bpe.h"
#include "src/model/normalizer.h"
#include "src/model/token_decoder.h"
#include "src/model/tokenizer_config.h"

namespace nibble {

// Invariant: ids and texts name each other.
class TokenTable {
 public:
  // where: file and key, for the error of an id out of range, or of an id or a text that is there
  // already with another partner. The same pair twice is no error.
  void add(const std::string& text, int64_t id, const std::string& where);
  std::optional<int32_t> id(std::string_view text) const;
  // Of an id without a token: empty.
  const std::string& text(int32_t id) const { return texts_[static_cast<size_t>(id)]; }
  int64_t size() const { return static_cast<int64_t>(texts_.size()); }  // highest id + 1
  const Vocabulary& ids() const { return ids_; }

 private:
  std::vector<std::string> texts_;  // by id
  Vocabulary ids_;
};

struct TokenizerParts {
  std::string description;
  TokenTable table;
  std::vector<AddedToken> added;
  Normalizer normalizer;
  // Appends the ids of a normalized text without added tokens. at_start: nothing stands before it.
  std::function<void(std::string text, bool at_start, std::vector<int32_t>& ids)> encode;
  TokenDecoder decoder;
  std::vector<int32_t> prefix;  // what `add_special` puts in front and behind
  std::vector<int32_t> suffix;
  std::optional<int32_t> bos;
  std::optional<int32_t> eos;
};

// "model.vocab" of tokenizer.json, or vocab.json.
TokenTable read_vocabulary(const JsonView& section);

// The added token, unless the parts have one of its text already.
void add_token(TokenizerParts& parts, const AddedToken& token, const std::string& where);

// The tokens that the configuration adds or names; bos and eos.
void apply_config(TokenizerParts& parts, const TokenizerConfig& config);

// prefix and suffix from add_bos_token and add_eos_token, where the configuration decides.
void apply_bos_rule(TokenizerParts& parts, const TokenizerConfig& config, bool add_bos_default);

// BPE over the table as it is now, added tokens not yet in it.
void set_bpe(TokenizerParts& parts, Pretokenizer pretokenizer, const std::vector<Merge>& merges,
             const BpeOptions& options);

// left + right must be in the table too. where: for the error of a token that is not.
Merge merge_of(const TokenTable& table, const std::string& left, const std::string& right,
               const std::string& where);

// What Tokenizer::open opens.
TokenizerParts read_tokenizer_parts(const std::filesystem::path& path);

// where: the file, for messages.
TokenizerParts read_tokenizer_json(const Json& json, const std::string& where,
                                   const TokenizerConfig& config);
TokenizerParts read_vocab_and_merges(const std::filesystem::path& vocab,
                                     const std::filesystem::path& merges,
                                     const TokenizerConfig& config);
// bytes: the content of the file.
TokenizerParts read_sentencepiece(const std::filesystem::path& file, const std::string& bytes,
                                  const TokenizerConfig& config);
TokenizerParts read_tiktoken(const std::filesystem::path& file, const std::string& bytes,
                             const TokenizerConfig& config);
TokenizerParts read_gguf_tokenizer(const std::filesystem::path& file);
bool looks_like_tiktoken(std::string_view bytes);

}  // namespace nibble
