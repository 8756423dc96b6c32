#include "formats/name_pattern.h"

#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "src/tensor/error.h"
#include "src/tensor/pcre2.h"

namespace nibble {
namespace {

// Names have tens of letters: whoever needs more tries every way to split them.
constexpr uint32_t kMostSteps = 100'000;
constexpr uint32_t kMostKilobytes = 16 << 10;

PCRE2_SPTR bytes_of(const std::string& text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace

struct NamePattern::Code {
  Pcre2Owned<pcre2_code, pcre2_code_free> code;
  Pcre2Owned<pcre2_match_context, pcre2_match_context_free> context;
  Pcre2Owned<pcre2_match_data, pcre2_match_data_free> data;
};

NamePattern::NamePattern(std::string expression, std::string where)
    : expression_(std::move(expression)),
      where_(std::move(where)),
      code_(std::make_unique<Code>()) {
  int error = 0;
  PCRE2_SIZE place = 0;
  code_->code.reset(pcre2_compile(bytes_of(expression_), expression_.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &place,
                                  nullptr));
  if (!code_->code) {
    throw Error(where_,
                "'" + expression_ + "' is no regular expression that is understood: byte " +
                    std::to_string(place) + ": " + pcre2_message(error),
                "Python's syntax is");
  }
  code_->context.reset(pcre2_match_context_create(nullptr));
  code_->data.reset(pcre2_match_data_create_from_pattern(code_->code.get(), nullptr));
  if (!code_->context || !code_->data) throw std::bad_alloc();
  pcre2_set_match_limit(code_->context.get(), kMostSteps);
  pcre2_set_heap_limit(code_->context.get(), kMostKilobytes);
}

NamePattern::NamePattern(NamePattern&&) noexcept = default;
NamePattern& NamePattern::operator=(NamePattern&&) noexcept = default;
NamePattern::~NamePattern() = default;

bool NamePattern::matches(const std::string& name, bool at_start) const {
  const int found =
      pcre2_match(code_->code.get(), bytes_of(name), name.size(), 0, at_start ? PCRE2_ANCHORED : 0,
                  code_->data.get(), code_->context.get());
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found >= 0) return true;
  throw Error(where_, "'" + expression_ + "' gives up on '" + name + "': " + pcre2_message(found),
              "a simpler expression");
}

bool NamePattern::matches_at_start(const std::string& name) const { return matches(name, true); }
bool NamePattern::is_found_in(const std::string& name) const { return matches(name, false); }

}  // namespace nibble
