#include "src/model/tokenizer_config.h"

#include <array>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "formats/json.h"
#include "src/model/added_tokens.h"
#include "src/model/json_view.h"

namespace nibble {

namespace {

// A token is written as its text or as an object with its text; null is none.
std::optional<std::string> token_text(const JsonView& config, std::string_view key) {
  const auto entry = config.find(key);
  if (!entry) return std::nullopt;
  return entry->value().is_object() ? entry->at("content").text() : entry->text();
}

std::optional<bool> optional_flag(const JsonView& config, std::string_view key) {
  const auto entry = config.find(key);
  return entry ? std::optional(entry->flag()) : std::nullopt;
}

void read_named_tokens(const JsonView& config, TokenizerConfig& result) {
  if (!result.bos) result.bos = token_text(config, "bos_token");
  if (!result.eos) result.eos = token_text(config, "eos_token");
  constexpr std::array<std::string_view, 5> kOthers{"unk_token", "pad_token", "sep_token",
                                                    "cls_token", "mask_token"};
  for (const std::string_view key : kOthers) {
    if (auto token = token_text(config, key)) result.other_special.push_back(std::move(*token));
  }
  const auto additional = config.find("additional_special_tokens");
  if (!additional) return;
  for (const JsonView& token : additional->elements()) {
    result.other_special.push_back(token.value().is_object() ? token.at("content").text()
                                                             : token.text());
  }
}

int32_t id_from_key(const std::string& key, const JsonView& section) {
  int32_t id = -1;
  const char* end = key.data() + key.size();
  const auto [stop, error] = std::from_chars(key.data(), end, id);
  if (error != std::errc() || stop != end || id < 0) section.fail("'" + key + "' is not an id");
  return id;
}

void read_main(const JsonView& config, TokenizerConfig& result) {
  result.tokenizer_class = config.text("tokenizer_class", "");
  constexpr std::string_view kFast = "Fast";
  if (result.tokenizer_class.ends_with(kFast)) {
    result.tokenizer_class.resize(result.tokenizer_class.size() - kFast.size());
  }
  result.add_bos = optional_flag(config, "add_bos_token");
  result.add_eos = optional_flag(config, "add_eos_token");
  result.add_prefix_space = optional_flag(config, "add_prefix_space");
  result.legacy = config.flag("legacy", true);
  read_named_tokens(config, result);
  const auto added = config.find("added_tokens_decoder");
  if (!added) return;
  for (const auto& [key, entry] : added->object().items()) {
    AddedToken token = read_added_token(added->at(key));
    token.id = id_from_key(key, *added);
    result.added.push_back(std::move(token));
  }
}

}  // namespace

AddedToken read_added_token(const JsonView& entry) {
  AddedToken token;
  token.content = entry.at("content").text();
  token.single_word = entry.flag("single_word", false);
  token.lstrip = entry.flag("lstrip", false);
  token.rstrip = entry.flag("rstrip", false);
  token.special = entry.flag("special", false);
  token.normalized = entry.flag("normalized", !token.special);
  if (token.content.empty()) entry.fail("an added token is empty");
  return token;
}

TokenizerConfig tokenizer_config_from(const Json& json, const std::string& where) {
  TokenizerConfig result;
  result.where = where;
  read_main(JsonView(json, where), result);
  return result;
}

TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder) {
  TokenizerConfig result;
  const auto main = folder / "tokenizer_config.json";
  const auto map = folder / "special_tokens_map.json";
  const auto model = folder / "config.json";
  result.where = main.string();
  if (std::filesystem::exists(main)) {
    const Json json = read_json(main);
    read_main(JsonView(json, main.string()), result);
  }
  if (std::filesystem::exists(map)) {
    const Json json = read_json(map);
    read_named_tokens(JsonView(json, map.string()), result);
  }
  if (std::filesystem::exists(model)) {
    const Json json = read_json(model);
    result.model_type = JsonView(json, model.string()).text("model_type", "");
  }
  return result;
}

}  // namespace nibble
