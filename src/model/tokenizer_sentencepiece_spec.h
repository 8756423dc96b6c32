// What a SentencePiece model says about itself and the library's interface does not tell
// (sentencepiece_model.proto, version 0.1.97), and whether the library can read it safely.
#pragma once

#include <optional>
#include <string_view>

namespace nibble {

struct SentencePieceSpec {
  bool bpe = false;            // trainer_spec.model_type; otherwise unigram, word or char
  bool suffix_spaces = false;  // a word's space stands behind it
  bool charsmap = false;       // characters are replaced by a table
  bool dummy_prefix = true;    // a space in front of the text
  bool removes_spaces = true;  // of several, and at the ends
  bool escapes_spaces = true;  // they become U+2581

  // Text is taken as it is, but for spaces, which become U+2581.
  bool is_identity() const {
    return !suffix_spaces && !charsmap && !removes_spaces && escapes_spaces;
  }
};

// model: a serialized ModelProto. None for what is no such message, and for a table of characters
// in which the library would read beyond its end.
std::optional<SentencePieceSpec> read_sentencepiece_spec(std::string_view model);

}  // namespace nibble
