// Added tokens: strings that become one id wherever a text spells them, before anything is cut
// into words. Semantics of Hugging Face tokenizers (src/tokenizer/added_vocabulary.rs).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "src/model/normalizer.h"

namespace nibble {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // not inside a longer word
  bool lstrip = false;       // takes the white space in front of it
  bool rstrip = false;       // and behind it
  bool normalized = false;   // looked for in the normalized text, in its own normalized form
  bool special = false;
};

// Part of a text: a token, or what lies between tokens.
struct TextPart {
  std::string_view text;
  std::optional<int32_t> id;
};

// Finds the longest token at the leftmost place.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  // Those tokens with `normalized` as given; the normalizer rewrites what is looked for. Of two
  // tokens that look alike the special one, then the first, wins.
  AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized,
                   const Normalizer& normalizer);

  // The whole text in order; no part without id is empty. Views into `text`.
  std::vector<TextPart> split(std::string_view text) const;

 private:
  struct Match {
    size_t begin;
    size_t end;
    const AddedToken* token;
  };
  void insert(std::string_view pattern, size_t token);
  std::optional<Match> find(std::string_view text, size_t start) const;

  static constexpr int32_t kNone = -1;
  // A trie: child by node * 256 + byte, token by node.
  std::unordered_map<uint64_t, int32_t> children_;
  std::vector<int32_t> token_of_node_;
  std::vector<AddedToken> tokens_;
  std::vector<bool> starts_ = std::vector<bool>(256, false);
};

}  // namespace nibble
