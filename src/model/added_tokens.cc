#include "src/model/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "src/model/normalizer.h"
#include "src/model/utf8.h"

namespace nibble {

namespace {

// Unicode's White_Space.
bool is_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// Letters, marks, decimal digits, connectors; the joiners too, as Rust's \w.
bool is_word(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return c == 0x200C || c == 0x200D;
  }
}

// Start of the last character; text is not empty.
size_t last_character(std::string_view text) {
  size_t position = text.size() - 1;
  while (position > 0 && (text[position] & 0xC0) == 0x80) --position;
  return position;
}

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  size_t position = last_character(text);
  return is_word(next_character(text, position));
}

bool starts_with_word(std::string_view text) {
  size_t position = 0;
  return !text.empty() && is_word(next_character(text, position));
}

size_t without_trailing_space(std::string_view text) {
  while (!text.empty()) {
    const size_t begin = last_character(text);
    size_t position = begin;
    if (!is_space(next_character(text, position))) break;
    text = text.substr(0, begin);
  }
  return text.size();
}

size_t leading_space(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    size_t position = end;
    if (!is_space(next_character(text, position))) break;
    end = position;
  }
  return end;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized,
                                   const Normalizer& normalizer) {
  for (const bool special : {true, false}) {
    std::copy_if(tokens.begin(), tokens.end(), std::back_inserter(tokens_),
                 [&](const AddedToken& token) {
                   return token.normalized == normalized && token.special == special;
                 });
  }
  token_of_node_.push_back(kNone);
  for (size_t i = 0; i < tokens_.size(); ++i) insert(normalizer.apply(tokens_[i].content), i);
}

void AddedTokenFinder::insert(std::string_view pattern, size_t token) {
  if (pattern.empty()) return;
  starts_[static_cast<unsigned char>(pattern[0])] = true;
  uint64_t node = 0;
  for (const char c : pattern) {
    const uint64_t key = node * 256 + static_cast<unsigned char>(c);
    const auto [child, is_new] =
        children_.try_emplace(key, static_cast<int32_t>(token_of_node_.size()));
    if (is_new) token_of_node_.push_back(kNone);
    node = static_cast<uint64_t>(child->second);
  }
  if (token_of_node_[node] == kNone) token_of_node_[node] = static_cast<int32_t>(token);
}

std::optional<AddedTokenFinder::Match> AddedTokenFinder::find(std::string_view text,
                                                              size_t start) const {
  for (size_t begin = start; begin < text.size(); ++begin) {
    if (!starts_[static_cast<unsigned char>(text[begin])]) continue;
    std::optional<Match> longest;
    uint64_t node = 0;
    for (size_t end = begin; end < text.size();) {
      const auto child = children_.find(node * 256 + static_cast<unsigned char>(text[end]));
      if (child == children_.end()) break;
      ++end;
      node = static_cast<uint64_t>(child->second);
      const int32_t token = token_of_node_[node];
      if (token != kNone) longest = Match{begin, end, &tokens_[static_cast<size_t>(token)]};
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

std::vector<TextPart> AddedTokenFinder::split(std::string_view text) const {
  std::vector<TextPart> parts;
  size_t covered = 0;
  size_t next = 0;
  while (const auto match = tokens_.empty() ? std::nullopt : find(text, next)) {
    next = match->end;
    const AddedToken& token = *match->token;
    const bool inside_word =
        ends_with_word(text.substr(0, match->begin)) || starts_with_word(text.substr(match->end));
    if (token.single_word && inside_word) continue;
    size_t begin = match->begin;
    size_t end = match->end;
    if (token.lstrip) begin = std::max(without_trailing_space(text.substr(0, begin)), covered);
    if (token.rstrip) end += leading_space(text.substr(end));
    if (covered < begin) parts.push_back({text.substr(covered, begin - covered), std::nullopt});
    parts.push_back({text.substr(begin, end - begin), token.id});
    covered = end;
  }
  if (covered < text.size()) parts.push_back({text.substr(covered), std::nullopt});
  return parts;
}

}  // namespace nibble
