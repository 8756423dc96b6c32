// tiktoken rank files: a line a token, its bytes in base64 and its rank, which is its id. Two
// neighbours may be joined when their bytes together are a token, lowest rank first.
// Of the models with such files Llama 3 is known: pattern and special tokens are in its code
// (meta-llama/llama-models, llama3/tokenizer.py), not in the file.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "src/model/added_tokens.h"
#include "src/model/bpe.h"
#include "src/model/byte_letters.h"
#include "src/model/pretokenizer.h"
#include "src/model/tokenizer_config.h"
#include "src/model/tokenizer_parts.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

constexpr int64_t kLlama3Ranks = 128000;
constexpr int kLlama3Special = 256;

int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  return c == '/' ? 63 : -1;
}

std::optional<std::string> from_base64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text.substr(0, text.size() - padding)) {
    const int value = base64_value(c);
    if (value < 0) return std::nullopt;
    bits = (bits << 6) | static_cast<uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<char>((bits >> count) & 0xFF));
  }
  return bytes;
}

struct Rank {
  std::string bytes;
  int64_t rank;
};

std::optional<Rank> read_line(std::string_view line) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  auto bytes = from_base64(line.substr(0, space));
  const std::string_view digits = line.substr(space + 1);
  int64_t rank = -1;
  const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
  const bool whole = error == std::errc() && stop == digits.data() + digits.size();
  if (!bytes || bytes->empty() || !whole || rank < 0) return std::nullopt;
  return Rank{std::move(*bytes), rank};
}

std::string_view next_line(std::string_view& rest) {
  const size_t end = std::min(rest.find('\n'), rest.size());
  std::string_view line = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

// In GPT-2's letters, so that the table holds text. tokens: the bytes by rank.
TokenTable read_table(std::string_view rest, const std::string& file,
                      std::vector<std::string>& tokens) {
  TokenTable table;
  for (int64_t number = 1; !rest.empty(); ++number) {
    const std::string_view line = next_line(rest);
    if (line.empty()) continue;
    const std::string where = file + ": line " + std::to_string(number);
    const auto entry = read_line(line);
    if (!entry) throw Error(where, "expected base64 and a rank", "is the file complete?");
    table.add(letters_of_bytes(entry->bytes), entry->rank, where);
    tokens.resize(static_cast<size_t>(table.size()));
    tokens[static_cast<size_t>(entry->rank)] = entry->bytes;
  }
  return table;
}

// Every way to put a token together from two others, in the order of the token's rank.
std::vector<Merge> merges_of(const std::vector<std::string>& tokens) {
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) ids.emplace(tokens[i], static_cast<int32_t>(i));
  std::vector<Merge> merges;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string_view token = tokens[i];
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ids.find(token.substr(0, cut));
      if (left == ids.end()) continue;
      const auto right = ids.find(token.substr(cut));
      if (right == ids.end()) continue;
      merges.push_back({left->second, right->second, static_cast<int32_t>(i)});
    }
  }
  return merges;
}

std::string llama3_special(int i) {
  constexpr std::array<const char*, 10> kNamed{
      "<|begin_of_text|>",   "<|end_of_text|>",   nullptr, nullptr,     nullptr, nullptr,
      "<|start_header_id|>", "<|end_header_id|>", nullptr, "<|eot_id|>"};
  const auto index = static_cast<size_t>(i);
  if (index < kNamed.size() && kNamed[index] != nullptr) return kNamed[index];
  // Reserved tokens 0-3 stand at 2-5, 4 at 8, 5 and all others from 10 on.
  const int number = i < 6 ? i - 2 : i == 8 ? 4 : i - 5;
  return "<|reserved_special_token_" + std::to_string(number) + "|>";
}

}  // namespace

bool looks_like_tiktoken(std::string_view bytes) { return read_line(next_line(bytes)).has_value(); }

TokenizerParts read_tiktoken(const std::filesystem::path& file, const std::string& bytes,
                             const TokenizerConfig& config) {
  TokenizerParts parts;
  std::vector<std::string> tokens;
  parts.table = read_table(bytes, file.string(), tokens);
  if (parts.table.size() != kLlama3Ranks ||
      parts.table.ids().size() != static_cast<size_t>(kLlama3Ranks)) {
    throw Error(file.string(),
                "a tiktoken file of " + std::to_string(parts.table.ids().size()) +
                    " ranks; Llama 3's has " + std::to_string(kLlama3Ranks),
                "no other is implemented; is the file complete?");
  }
  BpeOptions options;
  options.ignore_merges = true;
  set_bpe(parts, Pretokenizer::llama3(), merges_of(tokens), options);
  parts.decoder = TokenDecoder::byte_level();
  TokenizerConfig complete = config;
  if (complete.added.empty()) {
    for (int i = 0; i < kLlama3Special; ++i) {
      AddedToken token;
      token.id = static_cast<int32_t>(kLlama3Ranks + i);
      token.content = llama3_special(i);
      token.special = true;
      complete.added.push_back(std::move(token));
    }
  }
  if (!complete.bos) complete.bos = llama3_special(0);
  if (!complete.eos) complete.eos = llama3_special(1);
  apply_config(parts, complete);
  apply_bos_rule(parts, complete, true);
  parts.description = "tokenizer.model (tiktoken ranks)";
  return parts;
}

}  // namespace nibble
