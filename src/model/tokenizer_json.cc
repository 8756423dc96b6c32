// tokenizer.json, as Hugging Face tokenizers 0.2x writes and reads it. "truncation" and "padding"
// are left aside: they are defaults of a call, not part of the vocabulary.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/json.h"
#include "src/model/added_tokens.h"
#include "src/model/bpe.h"
#include "src/model/json_view.h"
#include "src/model/pretokenizer.h"
#include "src/model/tokenizer_config.h"
#include "src/model/tokenizer_parts.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

std::vector<Merge> read_merges(const JsonView& section, const TokenTable& table) {
  std::vector<Merge> merges;
  const Json& list = section.array();
  merges.reserve(list.size());
  const std::string where = section.where();
  for (const Json& entry : list) {
    const auto place = [&] { return where + "[" + std::to_string(merges.size()) + "]"; };
    if (entry.is_string()) {
      const auto& text = entry.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        throw Error(place(), "expected two tokens with a space between, found '" + text + "'");
      }
      merges.push_back(merge_of(table, text.substr(0, space), text.substr(space + 1), place()));
      continue;
    }
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_string()) {
      throw Error(place(), "a merge is neither a string nor a pair of strings");
    }
    merges.push_back(merge_of(table, entry[0].get_ref<const std::string&>(),
                              entry[1].get_ref<const std::string&>(), place()));
  }
  return merges;
}

// What would change the ids and is not implemented must not be set.
void refuse_unsupported(const JsonView& model) {
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto affix = model.find(key);
    if (affix && !affix->text().empty()) affix->fail("is not implemented");
  }
  const auto dropout = model.find("dropout");
  if (dropout && (!dropout->value().is_number() || dropout->value().get<double>() != 0)) {
    dropout->fail("dropout makes the ids random", "set it to null");
  }
}

BpeOptions read_options(const JsonView& model, const TokenTable& table) {
  BpeOptions options;
  options.fuse_unknown = model.flag("fuse_unk", false);
  options.byte_fallback = model.flag("byte_fallback", false);
  options.ignore_merges = model.flag("ignore_merges", false);
  if (const auto unknown = model.find("unk_token")) {
    options.unknown = table.id(unknown->text());
    if (!options.unknown) {
      unknown->fail("token '" + unknown->text() + "' is not in the vocabulary");
    }
  }
  return options;
}

void read_added_tokens(TokenizerParts& parts, const JsonView& root) {
  const auto list = root.find("added_tokens");
  if (!list) return;
  for (const JsonView& entry : list->elements()) {
    AddedToken token = read_added_token(entry);
    const int64_t id = entry.at("id").integer();
    parts.table.add(token.content, id, entry.where());
    token.id = static_cast<int32_t>(id);
    add_token(parts, token, entry.where());
  }
}

std::vector<int32_t> read_template_token(const JsonView& processor, const std::string& name,
                                         const TokenTable& table) {
  const JsonView ids = processor.at("special_tokens").at(name).at("ids");
  std::vector<int32_t> result;
  for (const JsonView& id : ids.elements()) {
    const int64_t value = id.integer();
    if (value < 0 || value >= table.size()) id.fail("id " + std::to_string(value) + " is no token");
    result.push_back(static_cast<int32_t>(value));
  }
  return result;
}

void read_template(TokenizerParts& parts, const JsonView& processor) {
  const JsonView single = processor.at("single");
  bool behind = false;
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  for (const JsonView& item : single.elements()) {
    if (item.find("Sequence")) {
      if (behind) item.fail("the text comes twice in the template");
      behind = true;
      continue;
    }
    const std::string& name = item.at("SpecialToken").at("id").text();
    const auto ids = read_template_token(processor, name, parts.table);
    auto& side = behind ? after : before;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (!behind) single.fail("the text does not come in the template");
  parts.prefix.insert(parts.prefix.begin(), before.begin(), before.end());
  parts.suffix.insert(parts.suffix.end(), after.begin(), after.end());
}

void read_post_processor(TokenizerParts& parts, const JsonView& section) {
  const std::string& type = section.at("type").text();
  if (type == "Sequence") {
    for (const JsonView& part : section.at("processors").elements()) {
      read_post_processor(parts, part);
    }
  } else if (type == "TemplateProcessing") {
    read_template(parts, section);
  } else if (type != "ByteLevel") {  // which trims offsets and adds nothing
    section.at("type").fail("post-processor '" + type + "' is not implemented");
  }
}

// transformers' LlamaTokenizerFast and those derived from it replace the template by these two
// keys; for other classes the template alone counts.
bool config_decides(const TokenizerConfig& config) {
  constexpr std::array<std::string_view, 3> kClasses{"LlamaTokenizer", "CodeLlamaTokenizer",
                                                     "GemmaTokenizer"};
  const bool said = config.add_bos.has_value() || config.add_eos.has_value();
  return said &&
         std::find(kClasses.begin(), kClasses.end(), config.tokenizer_class) != kClasses.end();
}

// transformers 5 takes from the file of a LlamaTokenizer that is not "legacy" the vocabulary, the
// merges and the template, and makes the rest itself: unknown characters without byte tokens are
// dropped, whatever unk_token says. The models it runs see these ids, so we make the same.
bool transformers_rebuilds(const TokenizerConfig& config, const BpeOptions& options) {
  return config.tokenizer_class == "LlamaTokenizer" && !config.legacy && options.byte_fallback;
}

std::string describe(const BpeOptions& options, bool byte_level) {
  if (byte_level) return "tokenizer.json (byte-level BPE)";
  return options.byte_fallback ? "tokenizer.json (BPE with byte fallback)" : "tokenizer.json (BPE)";
}

void read_model(TokenizerParts& parts, const JsonView& root, const TokenizerConfig& config) {
  const JsonView model = root.at("model");
  const JsonView vocabulary = model.at("vocab");
  // Files from before 2020 have no type.
  const std::string type = model.text("type", model.find("merges") ? "BPE" : "");
  if (type != "BPE") {
    throw Error(model.where() + ".type", "model '" + type + "' is not implemented",
                "BPE tokenizers are");
  }
  refuse_unsupported(model);
  parts.table = read_vocabulary(vocabulary);
  const auto merges = read_merges(model.at("merges"), parts.table);
  BpeOptions options = read_options(model, parts.table);
  const auto section = root.find("pre_tokenizer");
  Pretokenizer pretokenizer = section ? Pretokenizer(*section) : Pretokenizer();
  parts.description = describe(options, pretokenizer.byte_level());
  if (const auto normalizer = root.find("normalizer")) parts.normalizer = Normalizer(*normalizer);
  if (const auto decoder = root.find("decoder")) parts.decoder = TokenDecoder(*decoder);
  if (transformers_rebuilds(config, options)) {
    const bool prefix = config.add_prefix_space.value_or(true);
    parts.normalizer = Normalizer();
    pretokenizer = Pretokenizer::llama(prefix);
    parts.decoder = TokenDecoder::sentencepiece(prefix);
    options.unknown.reset();
    parts.description = "tokenizer.json (LlamaTokenizer as transformers 5 builds it)";
  }
  set_bpe(parts, std::move(pretokenizer), merges, options);
}

}  // namespace

TokenizerParts read_tokenizer_json(const Json& json, const std::string& where,
                                   const TokenizerConfig& config) {
  const JsonView root(json, where);
  TokenizerParts parts;
  read_model(parts, root, config);
  read_added_tokens(parts, root);
  if (const auto section = root.find("post_processor")) read_post_processor(parts, *section);
  apply_config(parts, config);
  if (config_decides(config)) apply_bos_rule(parts, config, true);
  return parts;
}

}  // namespace nibble
