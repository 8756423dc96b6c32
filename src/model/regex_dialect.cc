// Oniguruma's Ruby syntax to PCRE2's (regex.h).
//
// Sources: Oniguruma doc/RE (6.9), pcre2pattern(3) 10.42.
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "src/model/regex.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

// Oniguruma's Unicode "word" and "space"; PCRE2's own \w lacks marks, its \s has U+180E.
constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";

class Translation {
 public:
  Translation(std::string_view pattern, const std::string& where)
      : pattern_(pattern), where_(where) {}

  std::string run() {
    while (!done()) {
      if (in_class_) {
        class_item();
      } else {
        item();
      }
    }
    if (in_class_) fail("a character class without its ']'");
    return std::move(result_);
  }

 private:
  bool done() const { return position_ >= pattern_.size(); }
  char peek(size_t ahead = 0) const {
    return position_ + ahead < pattern_.size() ? pattern_[position_ + ahead] : '\0';
  }
  void copy() { result_ += pattern_[position_++]; }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(where_, "the regular expression '" + std::string(pattern_) + "' has " + what,
                "not implemented");
  }

  void item() {
    switch (peek()) {
      case '\\':
        return escape();
      case '(':
        return group();
      case '[':
        return open_class();
      case '{':
        if (peek(1) == ',') fail("{,n}");
        return copy();
      case '}':
        // Ruby reads {n}+ as a repeated repetition, PCRE2 as a possessive one.
        if (peek(1) == '+') fail("'+' after '}'");
        return copy();
      default:
        return copy();
    }
  }

  void group() {
    const size_t start = position_;
    copy();
    if (peek() == '*') fail("(*");
    if (peek() != '?') return;
    copy();
    if (peek() == ':' || peek() == '=' || peek() == '!' || peek() == '>') return copy();
    if (peek() == '<' && (peek(1) == '=' || peek(1) == '!')) {
      copy();
      return copy();
    }
    while (peek() == 'i' || peek() == '-') copy();
    if (peek() == ':') return copy();
    // (?i) reaches over alternatives differently, except from the start of the pattern.
    if (peek() == ')' && start == 0) return copy();
    fail("a group (? of unknown kind");
  }

  void open_class() {
    in_class_ = true;
    copy();
    if (peek() == '^') copy();
    if (peek() == ']') copy();
  }

  void class_item() {
    if (peek() == '\\') return escape();
    if (peek() == '[') fail("a class inside a class");
    if (peek() == '&' && peek(1) == '&') fail("&& in a class");
    if (peek() == ']') in_class_ = false;
    copy();
  }

  void escape() {
    const char letter = peek(1);
    switch (letter) {
      case 's':
        return replace("\\p{White_Space}");
      case 'S':
        return replace("\\P{White_Space}");
      case 'd':
        return replace("\\p{Nd}");
      case 'D':
        return replace("\\P{Nd}");
      case 'w':
        return in_class_ ? replace(kWord) : replace("[" + std::string(kWord) + "]");
      case 'W':
        if (in_class_) fail("\\W in a class");
        return replace("[^" + std::string(kWord) + "]");
      case 'v':
        return replace("\\x0B");
      case 'p':
      case 'P':
        return property();
      case 'u':
        return unicode_escape();
      case 'x':
        if (peek(2) != '{' && peek(2) > '7') fail("a byte above \\x7F");
        return replace("\\x");
      default:
        return plain_escape(letter);
    }
  }

  void plain_escape(char letter) {
    const bool alphanumeric = (letter >= '0' && letter <= '9') ||
                              (letter >= 'A' && letter <= 'Z') || (letter >= 'a' && letter <= 'z');
    constexpr std::string_view kSame = "tnrfae";
    constexpr std::string_view kAnchors = "AzZ";
    const bool known = kSame.find(letter) != std::string_view::npos ||
                       (!in_class_ && kAnchors.find(letter) != std::string_view::npos);
    if (letter == '\0' || (alphanumeric && !known)) fail(std::string("\\") + letter);
    copy();
    copy();
  }

  void replace(std::string_view text) {
    result_ += text;
    position_ += 2;
  }

  // \uHHHH
  void unicode_escape() {
    if (position_ + 6 > pattern_.size()) fail("\\u without four digits");
    result_ += "\\x{" + std::string(pattern_.substr(position_ + 2, 4)) + "}";
    position_ += 6;
  }

  // A name of more than two letters is a script, by its own property and not, as PCRE2 has it by
  // default, by the extensions of other scripts.
  void property() {
    const size_t close = pattern_.find('}', position_);
    if (peek(2) != '{' || close == std::string_view::npos) fail("\\p without {name}");
    std::string_view name = pattern_.substr(position_ + 3, close - position_ - 3);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    result_ += (peek(1) == 'P') != negated ? "\\P{" : "\\p{";
    if (name.size() > 2) result_ += "sc:";
    result_ += name;
    result_ += '}';
    position_ = close + 1;
  }

  std::string_view pattern_;
  const std::string& where_;
  size_t position_ = 0;
  bool in_class_ = false;
  std::string result_;
};

}  // namespace

std::string pcre2_pattern(std::string_view oniguruma, const std::string& where) {
  return Translation(oniguruma, where).run();
}

}  // namespace nibble
