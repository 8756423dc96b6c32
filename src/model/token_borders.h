// Cuts a long word where no token can span, so that SentencePiece-style tokenizers, for which a
// whole text is one word, profit from the cache of words. The ids stay exactly the same: two
// neighbouring characters that stand side by side in no token cannot end up in one token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace nibble {

class TokenBorders {
 public:
  // token: of one character (then the character is known) or of several.
  void add(std::string_view token);

  // Ends of the parts, rising; the last is word.size(). Unknown characters stay with their
  // neighbours: a run of them may be fused, or become bytes.
  void cut(std::string_view word, std::vector<size_t>& ends) const;

 private:
  std::unordered_set<uint64_t> neighbours_;  // left << 32 | right
  std::unordered_set<char32_t> known_;
};

}  // namespace nibble
