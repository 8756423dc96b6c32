// Rules: Hugging Face tokenizers 0.2x, src/decoders.
#include "src/model/token_decoder.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/model/byte_letters.h"
#include "src/model/json_view.h"
#include "src/model/normalizer.h"
#include "src/model/utf8.h"

namespace nibble {

namespace {

using Tokens = std::vector<std::string>;
using TokenStep = std::function<void(Tokens&)>;

std::string join(const Tokens& tokens, std::string_view separator) {
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) text += separator;
    text += tokens[i];
  }
  return text;
}

// A token with a character outside the alphabet, as added tokens may have, stands for itself.
void spell_bytes(Tokens& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) bytes += bytes_of_letters(token).value_or(token);
  tokens = {repair_utf8(bytes)};
}

std::optional<char> byte_token(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  unsigned byte = 0;
  const char* end = token.data() + 5;
  if (std::from_chars(token.data() + 3, end, byte, 16).ptr != end) return std::nullopt;
  return static_cast<char>(byte);
}

// A run of byte tokens that is no UTF-8 becomes one U+FFFD a byte.
void join_byte_tokens(Tokens& tokens) {
  Tokens result;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (first_invalid_utf8(bytes)) {
      result.insert(result.end(), bytes.size(), "\uFFFD");
    } else {
      result.push_back(bytes);
    }
    bytes.clear();
  };
  for (std::string& token : tokens) {
    if (const auto byte = byte_token(token)) {
      bytes.push_back(*byte);
    } else {
      flush();
      result.push_back(std::move(token));
    }
  }
  flush();
  tokens = std::move(result);
}

void fuse(Tokens& tokens) { tokens = {join(tokens, "")}; }

// Up to `start` times `content` off the front of each token, up to `stop` times off its end.
TokenStep strip(std::string content, int64_t start, int64_t stop) {
  return [content = std::move(content), start, stop](Tokens& tokens) {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (int64_t i = 0; i < start && rest.starts_with(content); ++i) {
        rest.remove_prefix(content.size());
      }
      for (int64_t i = 0; i < stop && rest.ends_with(content); ++i) {
        rest.remove_suffix(content.size());
      }
      token = std::string(rest);
    }
  };
}

TokenStep replace(std::string from, std::string content) {
  return [from = std::move(from), content = std::move(content)](Tokens& tokens) {
    for (std::string& token : tokens) token = replace_all(token, from, content);
  };
}

TokenStep strip_section(const JsonView& section) {
  const JsonView content = section.at("content");
  if (content.text().empty()) content.fail("the text to strip is empty");
  return strip(content.text(), section.at("start").integer(), section.at("stop").integer());
}

TokenStep replace_section(const JsonView& section) {
  const JsonView pattern = section.at("pattern");
  std::string content = section.at("content").text();
  if (pattern.find("String")) return replace(pattern.at("String").text(), std::move(content));
  pattern.fail("a decoder's pattern must be a String", "not implemented");
}

// All marks of the first token vanish where the encoder may have put one there; others are spaces.
TokenStep metaspace(const JsonView& section) {
  const bool prefixed = section.find("prepend_scheme")
                            ? section.at("prepend_scheme").text() != "never"
                            : section.flag("add_prefix_space", true);
  return [mark = section.text("replacement", "\u2581"), prefixed](Tokens& tokens) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = replace_all(tokens[i], mark, i == 0 && prefixed ? "" : " ");
    }
  };
}

struct DecoderRow {
  std::string_view type;
  TokenStep (*make)(const JsonView& section);
};

constexpr std::array<DecoderRow, 6> kDecoders{{
    {"ByteLevel", [](const JsonView&) { return TokenStep(spell_bytes); }},
    {"ByteFallback", [](const JsonView&) { return TokenStep(join_byte_tokens); }},
    {"Fuse", [](const JsonView&) { return TokenStep(fuse); }},
    {"Strip", strip_section},
    {"Replace", replace_section},
    {"Metaspace", metaspace},
}};

}  // namespace

TokenDecoder::TokenDecoder(const JsonView& section) { add(section); }

TokenDecoder TokenDecoder::byte_level() {
  TokenDecoder result;
  result.steps_.emplace_back(spell_bytes);
  return result;
}

TokenDecoder TokenDecoder::sentencepiece(bool drop_first_space) {
  TokenDecoder result;
  result.steps_ = {replace("\u2581", " "), join_byte_tokens, fuse};
  if (drop_first_space) result.steps_.push_back(strip(" ", 1, 0));
  return result;
}

void TokenDecoder::add(const JsonView& section) {
  const std::string& type = section.at("type").text();
  if (type == "Sequence") {
    for (const JsonView& part : section.at("decoders").elements()) add(part);
    return;
  }
  const auto row = std::find_if(kDecoders.begin(), kDecoders.end(),
                                [&](const DecoderRow& r) { return r.type == type; });
  if (row == kDecoders.end()) section.at("type").fail("decoder '" + type + "' is not implemented");
  steps_.push_back(row->make(section));
}

std::string TokenDecoder::apply(std::vector<std::string> tokens) const {
  for (const TokenStep& step : steps_) step(tokens);
  return repair_utf8(join(tokens, steps_.empty() ? " " : ""));
}

}  // namespace nibble
