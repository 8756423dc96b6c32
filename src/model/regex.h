// Regular expressions of tokenizer files, run by PCRE2 with its just-in-time compiler.
//
// tokenizer.json is written for Oniguruma (Ruby syntax, Unicode). What means the same in PCRE2 is
// passed through, what differs is translated (\s \w \d \v \u, scripts) and everything else is an
// error, so that a pattern never silently splits differently. Classes follow Unicode 14 (PCRE2
// 10.42): a character assigned later counts as unassigned.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

struct RegexMatch {
  size_t begin;
  size_t end;  // == begin for an empty match
};

// Owns a compiled pattern; may be used by several threads, each with its own RegexScanner.
class Regex {
 public:
  // where: file and key, for the error of a pattern that is broken or not implemented.
  Regex(std::string_view pattern, const std::string& where);
  // Matches exactly this text.
  static Regex literal(std::string_view text, const std::string& where);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

 private:
  friend class RegexScanner;
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

// Owns the working memory of a search. The Regex must outlive it.
class RegexScanner {
 public:
  explicit RegexScanner(const Regex& regex);
  RegexScanner(RegexScanner&&) noexcept;
  ~RegexScanner();

  // All matches from left to right, replacing the content of `matches`. text is valid UTF-8. An
  // empty match directly behind the one before it does not count, as in Oniguruma's find_iter.
  void find_all(std::string_view text, std::vector<RegexMatch>& matches);

 private:
  struct Memory;
  std::unique_ptr<Memory> memory_;
};

// The PCRE2 spelling of an Oniguruma pattern; throws Error for what has none. Public for its test.
std::string pcre2_pattern(std::string_view oniguruma, const std::string& where);

}  // namespace nibble
