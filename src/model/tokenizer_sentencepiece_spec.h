// What a SentencePiece model says about itself and the library's interface does not tell
// (sentencepiece_model.proto, version 0.1.97).
#pragma once

#include <string_view>

namespace nibble {

struct SentencePieceSpec {
  bool bpe = false;          // trainer_spec.model_type; otherwise unigram, word or char
  bool dummy_prefix = true;  // a space in front of the text
  // Text is taken as it is, but for spaces, which become U+2581.
  bool identity = false;
};

// model: a serialized ModelProto. What cannot be parsed leaves the defaults: whether the file is a
// model is for the library to say.
SentencePieceSpec read_sentencepiece_spec(std::string_view model);

}  // namespace nibble
