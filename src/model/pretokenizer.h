// The pre-tokenizer of tokenizer.json: cuts a text into the words that BPE merges inside of.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "src/model/json_view.h"

namespace nibble {

// Words, one behind the other.
struct Words {
  std::string text;
  std::vector<size_t> ends;  // of each word; rising, no word is empty
  // Whether the first word begins where the whole input begins, before any added token.
  bool at_start = false;

  size_t count() const { return ends.size(); }
  size_t begin(size_t i) const { return i == 0 ? 0 : ends[i - 1]; }
  std::string_view word(size_t i) const {
    return std::string_view(text).substr(begin(i), ends[i] - begin(i));
  }
  void add(std::string_view word);  // unless it is empty
};

// What a step does to the parts of a word that match and those between them (tokenizers:
// SplitDelimiterBehavior).
enum class SplitBehavior { kRemoved, kIsolated, kContiguous, kMergedWithPrevious, kMergedWithNext };

// Words of Qwen2 and of Llama 3: their published tokenizer.json.
inline constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

class Pretokenizer {
 public:
  Pretokenizer() = default;  // the whole text is one word
  // The section "pre_tokenizer" (not null). Throws Error naming a type that is not implemented.
  explicit Pretokenizer(const JsonView& section);

  // As tokenizer.json would spell them for the families whose vocab.json or rank file does not.
  static Pretokenizer gpt2(bool add_prefix_space);
  static Pretokenizer qwen2(bool add_prefix_space);
  static Pretokenizer llama3();
  // Spaces become "▁", and the text gets one in front unless it has it or prefix is false.
  static Pretokenizer llama(bool prefix);

  bool byte_level() const { return byte_level_; }
  // text is valid UTF-8 and not empty.
  Words apply(std::string text, bool at_start) const;

 private:
  using Step = std::function<Words(const Words&)>;
  void add(const JsonView& section);
  void add_byte_level(bool add_prefix_space, bool use_regex);
  bool byte_level_ = false;
  std::vector<Step> steps_;
};

}  // namespace nibble
