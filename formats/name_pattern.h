// NamePattern: a regular expression of module names, as users and quantization configs write them:
// in Python's syntax, which PCRE2 reads. Those of tokenizers are src/model/regex.h.
#pragma once

#include <memory>
#include <string>

namespace nibble {

class NamePattern {
 public:
  // where: option, or file and key. Throws Error for what is no expression.
  NamePattern(std::string expression, std::string where);
  NamePattern(NamePattern&&) noexcept;
  NamePattern& operator=(NamePattern&&) noexcept;
  ~NamePattern();

  // As Python's re.match and re.search. Throw Error for an expression that would try too long.
  bool matches_at_start(const std::string& name) const;
  bool is_found_in(const std::string& name) const;

 private:
  struct Code;
  bool matches(const std::string& name, bool at_start) const;

  std::string expression_;
  std::string where_;
  std::unique_ptr<Code> code_;
};

}  // namespace nibble
