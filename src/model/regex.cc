#include "src/model/regex.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/model/utf8.h"
#include "src/tensor/error.h"
#include "src/tensor/pcre2.h"

namespace nibble {

namespace {

// Patterns of tokenizers need a few hundred bytes; a pattern that needs more than the maximum is
// tried again by the interpreter, which has limits of its own and then throws.
constexpr size_t kJitStackStart = size_t{32} << 10;
constexpr size_t kJitStackMaximum = size_t{4} << 20;

// ^ and $ are per line in Ruby; a dot stops at \n alone.
constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;

}  // namespace

struct Regex::Code {
  Pcre2Owned<pcre2_code, pcre2_code_free> code;
  bool jit = false;
  std::string where;
  std::string pattern;

  Code(std::string_view text, uint32_t options, std::string place)
      : where(std::move(place)), pattern(text) {
    const Pcre2Owned<pcre2_compile_context, pcre2_compile_context_free> context(
        pcre2_compile_context_create(nullptr));
    if (!context) throw std::bad_alloc();
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE offset = 0;
    code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), options,
                             &error, &offset, context.get()));
    if (!code) {
      throw Error(where, "the regular expression '" + pattern + "' does not compile at byte " +
                             std::to_string(offset) + ": " + pcre2_message(error));
    }
    jit = pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE) == 0;
  }
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(std::string_view pattern, const std::string& where)
    : code_(std::make_unique<Code>(pcre2_pattern(pattern, where), kOptions, where)) {}
Regex Regex::literal(std::string_view text, const std::string& where) {
  return Regex(std::make_unique<Code>(text, PCRE2_UTF | PCRE2_LITERAL, where));
}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

struct RegexScanner::Memory {
  const Regex::Code& regex;
  Pcre2Owned<pcre2_match_context, pcre2_match_context_free> context;
  Pcre2Owned<pcre2_jit_stack, pcre2_jit_stack_free> stack;
  Pcre2Owned<pcre2_match_data, pcre2_match_data_free> data;

  explicit Memory(const Regex::Code& code)
      : regex(code),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(kJitStackStart, kJitStackMaximum, nullptr)),
        data(pcre2_match_data_create_from_pattern(code.code.get(), nullptr)) {
    if (!context || !stack || !data) throw std::bad_alloc();
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }

  // Returns whether there is a match at or after `start`; it is then in `data`.
  bool search(std::string_view text, size_t start) {
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int found = PCRE2_ERROR_JIT_STACKLIMIT;
    if (regex.jit) {
      found = pcre2_jit_match(regex.code.get(), subject, text.size(), start, 0, data.get(),
                              context.get());
    }
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
      found = pcre2_match(regex.code.get(), subject, text.size(), start,
                          PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(), context.get());
    }
    if (found == PCRE2_ERROR_NOMATCH) return false;
    if (found < 0) {
      throw Error(regex.where, "the regular expression '" + regex.pattern +
                                   "' gave up on this text: " + pcre2_message(found));
    }
    return true;
  }
};

RegexScanner::RegexScanner(const Regex& regex) : memory_(std::make_unique<Memory>(*regex.code_)) {}
RegexScanner::RegexScanner(RegexScanner&&) noexcept = default;
RegexScanner::~RegexScanner() = default;

void RegexScanner::find_all(std::string_view text, std::vector<RegexMatch>& matches) {
  matches.clear();
  if (text.data() == nullptr) text = "";
  size_t start = 0;
  while (start <= text.size() && memory_->search(text, start)) {
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(memory_->data.get());
    const RegexMatch match{range[0], range[1]};
    const bool repeats =
        match.begin == match.end && !matches.empty() && matches.back().end == match.begin;
    if (repeats) {
      start += start < text.size() ? utf8_length(text[start]) : 1;
    } else {
      start = match.end;
      matches.push_back(match);
    }
  }
}

}  // namespace nibble
