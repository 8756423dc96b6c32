// Unicode tables: utf8proc 2.8 (Unicode 15).
#include "src/model/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/model/byte_letters.h"
#include "src/model/json_view.h"
#include "src/model/regex.h"
#include "src/model/utf8.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

using TextStep = std::function<std::string(const std::string&)>;

// The compatibility form of U+FDFA, the longest, is 11 times as long, a space as a mark 3 times.
// Steps may follow one another, each longer than the one before.
constexpr size_t kMostGrowth = 64;
constexpr size_t kSlack = 4096;  // bytes, for short texts

bool is_ascii(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
}

// options: UTF8PROC_COMPOSE or _DECOMPOSE, perhaps with _COMPAT. ASCII is in every normal form.
TextStep normal_form(int options) {
  return [options](const std::string& text) {
    if (is_ascii(text)) return text;
    utf8proc_uint8_t* mapped = nullptr;
    const utf8proc_ssize_t size =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                     static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                     static_cast<utf8proc_option_t>(UTF8PROC_STABLE | options));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
    if (size < 0) throw Error("unicode normal form", utf8proc_errmsg(size));
    return std::string(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
  };
}

// Full mapping of single characters without context: U+0130 is the one that becomes two.
std::string lower_case(const std::string& text) {
  std::string result;
  result.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    const char32_t character = next_character(text, position);
    append_utf8(result, character == 0x130 ? U'i'
                                           : static_cast<char32_t>(utf8proc_tolower(
                                                 static_cast<utf8proc_int32_t>(character))));
    if (character == 0x130) append_utf8(result, 0x307);
  }
  return result;
}

std::string strip_accents(const std::string& text) {
  std::string result;
  for (size_t position = 0; position < text.size();) {
    const char32_t character = next_character(text, position);
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(character));
    const bool mark = category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
                      category == UTF8PROC_CATEGORY_ME;
    if (!mark) append_utf8(result, character);
  }
  return result;
}

TextStep regex_replacement(std::string_view pattern, std::string content,
                           const std::string& where) {
  const auto regex = std::make_shared<const Regex>(pattern, where);
  return [regex, content = std::move(content)](const std::string& text) {
    std::vector<RegexMatch> matches;
    RegexScanner(*regex).find_all(text, matches);
    std::string result;
    size_t copied = 0;
    for (const RegexMatch& match : matches) {
      result.append(text, copied, match.begin - copied);
      result += content;
      copied = match.end;
    }
    return result.append(text, copied);
  };
}

TextStep strip_text(const JsonView& section) {
  std::string pattern;
  if (section.flag("strip_left", true)) pattern = "\\A\\s+";
  if (section.flag("strip_right", true)) pattern += pattern.empty() ? "\\s+\\z" : "|\\s+\\z";
  if (pattern.empty()) return [](const std::string& text) { return text; };
  return regex_replacement(pattern, "", section.where());
}

TextStep replace_text(const JsonView& section) {
  const JsonView pattern = section.at("pattern");
  std::string content = section.at("content").text();
  if (content.size() > kSlack) section.fail("a replacement of more than 4096 bytes");
  if (const auto regex = pattern.find("Regex")) {
    return regex_replacement(regex->text(), std::move(content), regex->where());
  }
  return [from = pattern.at("String").text(), content = std::move(content)](
             const std::string& text) { return replace_all(text, from, content); };
}

TextStep prepend(const JsonView& section) {
  return [prefix = section.at("prepend").text()](const std::string& text) {
    return text.empty() ? text : prefix + text;
  };
}

struct NormalizerRow {
  std::string_view type;
  TextStep (*make)(const JsonView& section);
};

constexpr int kCompose = UTF8PROC_COMPOSE;
constexpr int kDecompose = UTF8PROC_DECOMPOSE;
constexpr int kCompatible = UTF8PROC_COMPAT;

constexpr std::array<NormalizerRow, 10> kNormalizers{{
    {"NFC", [](const JsonView&) { return normal_form(kCompose); }},
    {"NFD", [](const JsonView&) { return normal_form(kDecompose); }},
    {"NFKC", [](const JsonView&) { return normal_form(kCompose | kCompatible); }},
    {"NFKD", [](const JsonView&) { return normal_form(kDecompose | kCompatible); }},
    {"Lowercase", [](const JsonView&) { return TextStep(lower_case); }},
    {"StripAccents", [](const JsonView&) { return TextStep(strip_accents); }},
    {"Strip", strip_text},
    {"Replace", replace_text},
    {"Prepend", prepend},
    {"ByteLevel", [](const JsonView&) { return TextStep(letters_of_bytes); }},
}};

}  // namespace

Normalizer::Normalizer(const JsonView& section) : where_(section.where()) { add(section); }

Normalizer Normalizer::nfc() {
  Normalizer result;
  result.steps_.push_back(normal_form(kCompose));
  return result;
}

void Normalizer::add(const JsonView& section) {
  const std::string& type = section.at("type").text();
  if (type == "Sequence") {
    for (const JsonView& part : section.at("normalizers").elements()) add(part);
    return;
  }
  const auto row = std::find_if(kNormalizers.begin(), kNormalizers.end(),
                                [&](const NormalizerRow& r) { return r.type == type; });
  if (row == kNormalizers.end()) {
    section.at("type").fail("normalizer '" + type + "' is not implemented");
  }
  steps_.push_back(row->make(section));
}

std::string Normalizer::apply(std::string text) const {
  const size_t most = kMostGrowth * (text.size() + kSlack);
  for (const TextStep& step : steps_) {
    text = step(text);
    if (text.size() > most) {
      throw Error(where_,
                  "makes a text more than " + std::to_string(kMostGrowth) + " times longer");
    }
  }
  return text;
}

std::string replace_all(const std::string& text, const std::string& pattern,
                        const std::string& replacement) {
  if (pattern.empty()) return text;
  std::string result;
  size_t copied = 0;
  for (size_t found; (found = text.find(pattern, copied)) != std::string::npos;) {
    result.append(text, copied, found - copied);
    result += replacement;
    copied = found + pattern.size();
  }
  return result.append(text, copied);
}

}  // namespace nibble
