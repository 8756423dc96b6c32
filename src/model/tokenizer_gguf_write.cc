// From tokenizer.json, vocab.json with merges.txt, or tokenizer.model to tokenizer.ggml keys.
#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/gguf/container.h"
#include "formats/gguf/metadata.h"
#include "formats/json.h"
#include "src/model/added_tokens.h"
#include "src/model/tokenizer_config.h"
#include "src/model/tokenizer_gguf.h"
#include "src/model/tokenizer_gguf_keys.h"
#include "src/model/tokenizer_parts.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

// Ids with their texts and types; what is missing in the table is padding.
struct TypedTokens {
  std::vector<std::string> texts;
  std::vector<int32_t> types;
};

TypedTokens tokens_of(const TokenizerParts& parts, int64_t vocabulary, const std::string& where) {
  if (parts.table.size() > vocabulary) {
    throw Error(where, std::to_string(parts.table.size()) + " tokens, the model has " +
                           std::to_string(vocabulary) + " rows of embeddings");
  }
  TypedTokens tokens;
  for (int64_t id = 0; id < vocabulary; ++id) {
    const bool known =
        id < parts.table.size() && !parts.table.text(static_cast<int32_t>(id)).empty();
    tokens.texts.push_back(known ? parts.table.text(static_cast<int32_t>(id))
                                 : "[PAD" + std::to_string(id) + "]");
    tokens.types.push_back(known ? kNormal : kUnused);
  }
  for (const AddedToken& token : parts.added) {
    tokens.types[static_cast<size_t>(token.id)] = token.special ? kControl : kUserDefined;
  }
  return tokens;
}

// "<0x0A>"
bool is_byte(std::string_view text) {
  return text.size() == 6 && text.starts_with("<0x") && text.ends_with('>');
}

void add_common(const TokenizerParts& parts, TypedTokens tokens, const char* model,
                std::string_view pre, GgufMetadata& metadata) {
  metadata.set(kModel, std::string(model));
  metadata.set(kPre, std::string(pre));
  metadata.set(kTokens, std::move(tokens.texts));
  metadata.set(kTypes, std::move(tokens.types));
  const auto bos = !parts.prefix.empty() ? std::optional(parts.prefix.front()) : parts.bos;
  const auto eos = !parts.suffix.empty() ? std::optional(parts.suffix.back()) : parts.eos;
  if (bos) metadata.set(kBos, static_cast<uint32_t>(*bos));
  if (eos) metadata.set(kEos, static_cast<uint32_t>(*eos));
  metadata.set(kAddBos, !parts.prefix.empty());
  metadata.set(kAddEos, !parts.suffix.empty());
}

// ---- byte-level BPE -----------------------------------------------------------------------------

// The steps of a pre_tokenizer section, one or a sequence.
Json steps_of(const Json& section) {
  if (section.is_null()) return Json::array();
  if (section.value("type", "") != "Sequence") return Json::array({section});
  return section.value("pretokenizers", Json::array());
}

bool is_byte_level(const Json& tokenizer) {
  const Json steps = steps_of(tokenizer.value("pre_tokenizer", Json()));
  return std::any_of(steps.begin(), steps.end(),
                     [](const Json& step) { return step.value("type", "") == "ByteLevel"; });
}

std::string_view pre_name(const Json& tokenizer, const std::string& where) {
  std::string pattern;
  bool digits = false;
  bool known = true;
  for (const Json& step : steps_of(tokenizer.value("pre_tokenizer", Json()))) {
    const std::string type = step.value("type", "");
    if (type == "Split") {
      pattern = step.value("pattern", Json::object()).value("Regex", "?");
    } else if (type == "Digits") {
      digits = step.value("individual_digits", false);
    } else {
      known = known && type == "ByteLevel" && !step.value("add_prefix_space", false);
    }
  }
  const auto* found = std::ranges::find_if(kPreTokenizers, [&](const GgufPreTokenizer& row) {
    return row.pattern == pattern && row.single_digits == digits;
  });
  if (known && found != kPreTokenizers.end()) return found->name;
  throw Error(where, "its pre_tokenizer is none that llama.cpp has a name for here",
              "known are those of gpt-2, qwen2, llama 3 and smollm");
}

std::vector<std::string> merges_of(const Json& tokenizer) {
  std::vector<std::string> merges;
  for (const Json& merge : tokenizer.at("model").at("merges")) {
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>());
  }
  return merges;
}

std::vector<std::string> merges_in(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw Error(file.string(), "cannot be read");
  std::vector<std::string> merges;
  for (std::string line; std::getline(stream, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty() && !line.starts_with("#version")) merges.push_back(line);
  }
  return merges;
}

void add_bpe(const TokenizerParts& parts, int64_t vocabulary, std::string_view pre,
             std::vector<std::string> merges, const std::string& where, GgufMetadata& metadata) {
  add_common(parts, tokens_of(parts, vocabulary, where), "gpt2", pre, metadata);
  metadata.set(kMerges, std::move(merges));
}

// ---- SentencePiece ------------------------------------------------------------------------------

// Pieces keep the order in which merges make them: the earlier, the higher the score.
std::vector<float> scores_of(const Json& tokenizer, const TypedTokens& tokens) {
  std::map<std::string, size_t> ids;
  for (size_t id = 0; id < tokens.texts.size(); ++id) ids.emplace(tokens.texts[id], id);
  std::vector<float> scores(tokens.texts.size(), 0.F);
  std::vector<bool> made(tokens.texts.size(), false);
  float rank = 0.F;
  for (const std::string& merge : merges_of(tokenizer)) {
    rank -= 1.F;
    const size_t space = merge.find(' ');
    const auto id = ids.find(merge.substr(0, space) + merge.substr(space + 1));
    if (id == ids.end() || made[id->second]) continue;
    made[id->second] = true;
    scores[id->second] = rank;
  }
  return scores;
}

void add_pieces(const TokenizerParts& parts, TypedTokens tokens, std::vector<float> scores,
                const TokenizerConfig& config, std::optional<std::string> unknown,
                GgufMetadata& metadata) {
  for (size_t id = 0; id < tokens.texts.size(); ++id) {
    if (is_byte(tokens.texts[id])) tokens.types[id] = kByte;
    if (unknown && tokens.texts[id] == *unknown) {
      tokens.types[id] = kUnknownType;
      metadata.set(kUnknown, static_cast<uint32_t>(id));
      unknown.reset();
    }
  }
  add_common(parts, std::move(tokens), "llama", "default", metadata);
  metadata.set(kScores, std::move(scores));
  metadata.set(kAddSpacePrefix, config.add_prefix_space.value_or(true));
}

void add_sentencepiece(const TokenizerParts& parts, int64_t vocabulary,
                       const std::filesystem::path& file, const TokenizerConfig& config,
                       GgufMetadata& metadata) {
  sentencepiece::SentencePieceProcessor processor;
  if (!processor.Load(file.string()).ok()) {
    throw Error(file.string(), "no SentencePiece model", "tiktoken files are not written to GGUF");
  }
  TypedTokens tokens = tokens_of(parts, vocabulary, file.string());
  std::vector<float> scores(tokens.texts.size(), 0.F);
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    scores[static_cast<size_t>(id)] = processor.GetScore(id);
    if (processor.IsUnused(id)) tokens.types[static_cast<size_t>(id)] = kUnused;
  }
  add_pieces(parts, std::move(tokens), std::move(scores), config,
             processor.IdToPiece(processor.unk_id()), metadata);
}

void copy_keys(const GgufMetadata& from, GgufMetadata& to) {
  for (const auto& [key, value] : from.entries()) {
    if (key.starts_with("tokenizer.")) to.set(key, value);
  }
}

}  // namespace

void add_gguf_tokenizer(const std::filesystem::path& model, int64_t vocabulary,
                        GgufMetadata& metadata) {
  using std::filesystem::exists;
  if (std::filesystem::is_regular_file(model)) {
    return copy_keys(GgufFile::open(model)->metadata(), metadata);
  }
  const auto json_file = model / "tokenizer.json";
  const auto vocab = model / "vocab.json";
  const auto pieces = model / "tokenizer.model";
  if (!exists(json_file) && !exists(vocab) && !exists(pieces)) {
    metadata.set(kModel, std::string("none"));
    return;
  }
  const TokenizerParts parts = read_tokenizer_parts(model);
  const TokenizerConfig config = read_tokenizer_config(model);
  if (exists(json_file)) {
    const Json json = read_json(json_file);
    if (is_byte_level(json)) {
      add_bpe(parts, vocabulary, pre_name(json, json_file.string()), merges_of(json),
              json_file.string(), metadata);
    } else {
      TypedTokens tokens = tokens_of(parts, vocabulary, json_file.string());
      std::vector<float> scores = scores_of(json, tokens);
      const Json unknown = json.at("model").value("unk_token", Json());
      add_pieces(parts, std::move(tokens), std::move(scores), config,
                 unknown.is_string() ? std::optional(unknown.get<std::string>()) : std::nullopt,
                 metadata);
    }
  } else if (exists(vocab)) {
    const bool qwen =
        config.tokenizer_class == "Qwen2Tokenizer" || config.model_type.starts_with("qwen");
    add_bpe(parts, vocabulary, qwen ? "qwen2" : "gpt-2", merges_in(model / "merges.txt"),
            vocab.string(), metadata);
  } else {
    add_sentencepiece(parts, vocabulary, pieces, config, metadata);
  }
  if (exists(model / "tokenizer_config.json")) {
    const Json main = read_json(model / "tokenizer_config.json");
    if (const auto found = main.find("chat_template"); found != main.end() && found->is_string()) {
      metadata.set(kChatTemplate, found->get<std::string>());
    }
  }
}

}  // namespace nibble
