// The normalizer of tokenizer.json: what happens to a text before it is cut into words.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "src/model/json_view.h"

namespace nibble {

class Normalizer {
 public:
  Normalizer() = default;  // changes nothing
  // The section "normalizer" (not null). Throws Error naming a type that is not implemented.
  explicit Normalizer(const JsonView& section);
  // Unicode normal form C, which Qwen2's vocab.json needs and does not say.
  static Normalizer nfc();

  bool empty() const { return steps_.empty(); }
  // text is valid UTF-8, and so is the result. Throws Error for steps that make a text many times
  // longer.
  std::string apply(std::string text) const;

 private:
  using Step = std::function<std::string(const std::string&)>;
  void add(const JsonView& section);
  std::string where_;
  std::vector<Step> steps_;
};

// Every occurrence of `pattern` replaced; an empty pattern replaces nothing.
std::string replace_all(const std::string& text, const std::string& pattern,
                        const std::string& replacement);

}  // namespace nibble
