// Tokenizer: text to ids and back, as the model's own files define it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

class Tokenizer {
 public:
  // The tokenizer in a GGUF file, or a model folder's: tokenizer.json, else vocab.json +
  // merges.txt, else tokenizer.model (SentencePiece, or tiktoken ranks). tokenizer_config.json adds
  // added tokens and BOS/EOS rules where the main file does not carry them. Throws Error naming
  // file and key for what is missing, broken or not implemented.
  static Tokenizer open(const std::filesystem::path& folder);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // add_special: with what the template adds (BOS, EOS). Text that spells an added token becomes
  // that token, as in transformers.
  std::vector<int32_t> encode(std::string_view text, bool add_special = true) const;
  // skip_special: special tokens are left out. Bytes that are no valid UTF-8 become U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special = true) const;

  int64_t vocabulary_size() const;  // highest id + 1
  std::optional<int32_t> bos() const;
  std::optional<int32_t> eos() const;
  // Whether encode(..., true) puts BOS first.
  bool adds_bos() const;
  // What was read, for messages: "tokenizer.json (byte-level BPE)".
  const std::string& description() const;

 private:
  class State;
  explicit Tokenizer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace nibble
