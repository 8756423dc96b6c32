#include "src/model/token_borders.h"

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "src/model/utf8.h"

namespace nibble {

namespace {

uint64_t neighbours_of(char32_t left, char32_t right) {
  return (static_cast<uint64_t>(left) << 32) | static_cast<uint64_t>(right);
}

}  // namespace

void TokenBorders::add(std::string_view token) {
  if (token.empty()) return;
  size_t position = 0;
  char32_t left = next_character(token, position);
  if (position == token.size()) known_.insert(left);
  while (position < token.size()) {
    const char32_t right = next_character(token, position);
    neighbours_.insert(neighbours_of(left, right));
    left = right;
  }
}

void TokenBorders::cut(std::string_view word, std::vector<size_t>& ends) const {
  ends.clear();
  if (word.empty()) return;
  size_t position = 0;
  char32_t left = next_character(word, position);
  while (position < word.size()) {
    const size_t border = position;
    const char32_t right = next_character(word, position);
    const bool joined = neighbours_.contains(neighbours_of(left, right)) ||
                        !known_.contains(left) || !known_.contains(right);
    if (!joined) ends.push_back(border);
    left = right;
  }
  ends.push_back(word.size());
}

}  // namespace nibble
