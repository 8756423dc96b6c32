// The decoder of tokenizer.json: from the strings of tokens to text.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "src/model/json_view.h"

namespace nibble {

class TokenDecoder {
 public:
  TokenDecoder() = default;  // joins tokens with spaces, as tokenizers does without a decoder
  // The section "decoder" (not null). Throws Error naming a type that is not implemented.
  explicit TokenDecoder(const JsonView& section);
  static TokenDecoder byte_level();
  // "▁" is a space, <0xNN> a byte; one space in front is dropped where the encoder put it there.
  static TokenDecoder sentencepiece(bool drop_first_space);

  // Valid UTF-8.
  std::string apply(std::vector<std::string> tokens) const;

 private:
  using Step = std::function<void(std::vector<std::string>&)>;
  void add(const JsonView& section);
  std::vector<Step> steps_;
};

}  // namespace nibble
