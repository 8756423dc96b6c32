#include "src/model/tokenizer_parts.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/model/added_tokens.h"
#include "src/model/bpe.h"
#include "src/model/json_view.h"
#include "src/model/pretokenizer.h"
#include "src/model/tokenizer_config.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

// Real vocabularies have fewer than 2^20 tokens; the bound keeps a broken id from taking all
// memory.
constexpr int64_t kMaxId = (int64_t{1} << 22) - 1;

bool has_added(const TokenizerParts& parts, const std::string& text) {
  return std::any_of(parts.added.begin(), parts.added.end(),
                     [&](const AddedToken& token) { return token.content == text; });
}

std::optional<int32_t> named_token(const TokenizerParts& parts, const TokenizerConfig& config,
                                   const std::optional<std::string>& text, const char* key) {
  if (!text) return std::nullopt;
  const auto id = parts.table.id(*text);
  if (!id) {
    throw Error(config.where, std::string(key) + " '" + *text + "' is not in the vocabulary",
                "correct it or set it to null");
  }
  return id;
}

int32_t required(std::optional<int32_t> id, const TokenizerConfig& config, const char* which) {
  if (id) return *id;
  throw Error(config.where,
              std::string("add_") + which + "_token is true, but there is no " + which + "_token");
}

}  // namespace

void TokenTable::add(const std::string& text, int64_t id, const std::string& where) {
  if (id < 0 || id > kMaxId) {
    throw Error(where, "token '" + text + "' has id " + std::to_string(id) + ", allowed are 0 to " +
                           std::to_string(kMaxId));
  }
  const auto index = static_cast<size_t>(id);
  if (index >= texts_.size()) texts_.resize(index + 1);
  const auto [entry, is_new] = ids_.try_emplace(text, static_cast<int32_t>(id));
  if (!is_new && entry->second != id) {
    throw Error(where, "token '" + text + "' has two ids, " + std::to_string(entry->second) +
                           " and " + std::to_string(id));
  }
  if (is_new && !texts_[index].empty()) {
    throw Error(where, "id " + std::to_string(id) + " has two tokens, '" + texts_[index] +
                           "' and '" + text + "'");
  }
  texts_[index] = text;
}

std::optional<int32_t> TokenTable::id(std::string_view text) const {
  const auto entry = ids_.find(text);
  return entry == ids_.end() ? std::nullopt : std::optional(entry->second);
}

TokenTable read_vocabulary(const JsonView& section) {
  TokenTable table;
  const std::string where = section.where();
  for (const auto& [text, id] : section.object().items()) {
    // An unsigned number beyond int64 becomes -1 here, which is refused as any negative one.
    if (!id.is_number_integer()) section.fail("the id of token '" + text + "' is not an integer");
    const bool fits = !id.is_number_unsigned() ||
                      id.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()};
    table.add(text, fits ? id.get<int64_t>() : -1, where);
  }
  if (table.size() == 0) section.fail("the vocabulary is empty");
  return table;
}

void add_token(TokenizerParts& parts, const AddedToken& token, const std::string& where) {
  if (has_added(parts, token.content)) return;
  parts.table.add(token.content, token.id, where);
  parts.added.push_back(token);
}

void apply_config(TokenizerParts& parts, const TokenizerConfig& config) {
  for (const AddedToken& token : config.added) {
    add_token(parts, token, config.where + ": added_tokens_decoder");
  }
  std::vector<std::string> special = config.other_special;
  if (config.bos) special.push_back(*config.bos);
  if (config.eos) special.push_back(*config.eos);
  for (const std::string& text : special) {
    const auto id = parts.table.id(text);
    if (!id || text.empty()) continue;
    AddedToken token;
    token.id = *id;
    token.content = text;
    token.special = true;
    add_token(parts, token, config.where);
  }
  if (const auto id = named_token(parts, config, config.bos, "bos_token")) parts.bos = id;
  if (const auto id = named_token(parts, config, config.eos, "eos_token")) parts.eos = id;
}

void apply_bos_rule(TokenizerParts& parts, const TokenizerConfig& config, bool add_bos_default) {
  parts.prefix.clear();
  parts.suffix.clear();
  if (config.add_bos.value_or(add_bos_default)) {
    parts.prefix = {required(parts.bos, config, "bos")};
  }
  if (config.add_eos.value_or(false)) parts.suffix = {required(parts.eos, config, "eos")};
}

void set_bpe(TokenizerParts& parts, Pretokenizer pretokenizer, const std::vector<Merge>& merges,
             const BpeOptions& options) {
  const auto bpe = std::make_shared<const Bpe>(parts.table.ids(), merges, options);
  const auto cut = std::make_shared<const Pretokenizer>(std::move(pretokenizer));
  parts.encode = [bpe, cut](std::string text, bool at_start, std::vector<int32_t>& ids) {
    bpe->encode(cut->apply(std::move(text), at_start), ids);
  };
}

Merge merge_of(const TokenTable& table, const std::string& left, const std::string& right,
               const std::string& where) {
  const auto id = [&](const std::string& text) {
    const auto found = table.id(text);
    if (!found) {
      throw Error(where, "the merge of '" + left + "' and '" + right + "' needs token '" + text +
                             "', which is not in the vocabulary");
    }
    return *found;
  };
  return {id(left), id(right), id(left + right)};
}

}  // namespace nibble
