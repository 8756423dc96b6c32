#include "src/model/tokenizer_gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/gguf/container.h"
#include "formats/gguf/metadata.h"
#include "formats/json.h"
#include "src/model/tokenizer_config.h"
#include "src/model/tokenizer_gguf_keys.h"
#include "src/model/tokenizer_parts.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

// Tokens with their types, and the ids that have a meaning.
struct GgufVocabulary {
  const GgufMetadata& metadata;
  const std::vector<std::string>& tokens;
  std::vector<int64_t> types;  // [tokens]

  explicit GgufVocabulary(const GgufMetadata& from) : metadata(from), tokens(from.texts(kTokens)) {
    types = metadata.has(kTypes) ? metadata.integers(kTypes)
                                 : std::vector<int64_t>(tokens.size(), kNormal);
    if (types.size() < tokens.size()) {
      metadata.fail(kTypes, std::to_string(types.size()) + " values for " +
                                std::to_string(tokens.size()) + " tokens");
    }
  }

  // The token that a key names, by its id.
  std::optional<std::string> named(const char* key) const {
    if (!metadata.has(key)) return std::nullopt;
    const int64_t id = metadata.integer(key);
    if (id < 0 || id >= std::ssize(tokens)) {
      metadata.fail(key, "is " + std::to_string(id) + ", there are " +
                             std::to_string(tokens.size()) + " tokens");
    }
    return tokens[static_cast<size_t>(id)];
  }

  bool flag(const char* key, bool otherwise) const {
    return metadata.has(key) ? metadata.flag(key) : otherwise;
  }
};

std::string text_of(const Json& json, const GgufMetadata& metadata) {
  try {
    return json.dump(1);
  } catch (const Json::type_error&) {
    metadata.fail(kTokens, "holds text that is not UTF-8");
  }
}

// ---- byte-level BPE -----------------------------------------------------------------------------

const GgufPreTokenizer& pretokenizer_of(const GgufMetadata& metadata) {
  const std::string name = metadata.has(kPre) ? metadata.text(kPre) : "default";
  const auto* found = std::ranges::find(kPreTokenizers, name, &GgufPreTokenizer::name);
  if (found != kPreTokenizers.end()) return *found;
  std::string known;
  for (const GgufPreTokenizer& row : kPreTokenizers) {
    known.append(known.empty() ? "" : ", ").append(row.name);
  }
  metadata.fail(kPre, "'" + name + "' is not implemented", "known are " + known);
}

Json byte_level(bool splits) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", splits}};
}

Json pretokenizer_json(const GgufPreTokenizer& row) {
  Json steps = Json::array();
  if (row.single_digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  if (!row.pattern.empty()) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", row.pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  steps.push_back(byte_level(row.pattern.empty()));
  return steps.size() == 1 ? steps.front() : Json{{"type", "Sequence"}, {"pretokenizers", steps}};
}

// BOS and EOS around the text.
Json template_json(const GgufVocabulary& vocabulary, bool add_bos, bool add_eos) {
  Json single = Json::array();
  Json special = Json::object();
  const auto add = [&](bool wanted, const char* key) {
    if (!wanted) return;
    const auto token = vocabulary.named(key);
    if (!token) vocabulary.metadata.fail(key, "is missing, but is to be added to texts");
    single.push_back({{"SpecialToken", {{"id", *token}, {"type_id", 0}}}});
    special[*token] = {{"id", *token},
                       {"ids", Json::array({vocabulary.metadata.integer(key)})},
                       {"tokens", Json::array({*token})}};
  };
  add(add_bos, kBos);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  add(add_eos, kEos);
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", Json::array()},
          {"special_tokens", special}};
}

Json bpe_json(const GgufVocabulary& vocabulary) {
  const GgufMetadata& metadata = vocabulary.metadata;
  const GgufPreTokenizer& row = pretokenizer_of(metadata);
  Json words = Json::object();
  auto& vocab = words.get_ref<Json::object_t&>();
  Json added = Json::array();
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const int64_t type = vocabulary.types[i];
    if (type == kUnused) continue;
    if (type != kControl && type != kUserDefined) {
      vocab.emplace_back(vocabulary.tokens[i], i);  // operator[] would search: quadratic
      continue;
    }
    added.push_back({{"id", i},
                     {"content", vocabulary.tokens[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type == kControl}});
  }
  const bool add_bos = vocabulary.flag(kAddBos, row.adds_bos);
  const bool add_eos = vocabulary.flag(kAddEos, false);
  Json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = std::move(added);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = pretokenizer_json(row);
  json["post_processor"] =
      add_bos || add_eos ? template_json(vocabulary, add_bos, add_eos) : byte_level(true);
  json["decoder"] = byte_level(true);
  json["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"ignore_merges", row.whole_words},
                   {"vocab", std::move(words)},
                   {"merges", metadata.texts(kMerges)}};
  return json;
}

// ---- SentencePiece ------------------------------------------------------------------------------

// Protocol buffers: fields of sentencepiece_model.proto.
void append_varint(std::string& bytes, uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
}
void append_integer(std::string& bytes, uint64_t field, uint64_t value) {
  append_varint(bytes, field << 3);
  append_varint(bytes, value);
}
void append_bytes(std::string& bytes, uint64_t field, std::string_view value) {
  append_varint(bytes, field << 3 | 2);
  append_varint(bytes, value.size());
  bytes += value;
}
void append_float(std::string& bytes, uint64_t field, float value) {
  append_varint(bytes, field << 3 | 5);
  const auto bits = std::bit_cast<uint32_t>(value);
  for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(bits >> shift));
}

// ModelProto of a BPE that takes text as it is. llama.cpp reads the files of unigram models too,
// and merges their pieces by score as this does.
std::string sentencepiece_model(const GgufVocabulary& vocabulary) {
  const GgufMetadata& metadata = vocabulary.metadata;
  const std::vector<float>& scores = metadata.numbers(kScores);
  if (scores.size() < vocabulary.tokens.size()) {
    metadata.fail(kScores, std::to_string(scores.size()) + " values for " +
                               std::to_string(vocabulary.tokens.size()) + " tokens");
  }
  const int64_t unknown = metadata.has(kUnknown) ? metadata.integer(kUnknown) : 0;
  bool has_bytes = false;
  std::string model;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    int64_t type = vocabulary.types[i];
    if (static_cast<int64_t>(i) == unknown) type = kUnknownType;
    if (type < kNormal || type > kByte) {
      metadata.fail(kTypes,
                    std::to_string(type) + " of token " + std::to_string(i) + ", expected 1 to 6");
    }
    has_bytes = has_bytes || type == kByte;
    std::string piece;
    append_bytes(piece, 1, vocabulary.tokens[i]);
    append_float(piece, 2, scores[i]);
    append_integer(piece, 3, static_cast<uint64_t>(type));
    append_bytes(model, 1, piece);
  }
  std::string trainer;
  append_integer(trainer, 3, 2);  // model_type BPE
  append_integer(trainer, 35, has_bytes ? 1 : 0);
  append_bytes(trainer, 45, vocabulary.named(kUnknown).value_or("<unk>"));
  append_bytes(model, 2, trainer);
  std::string normalizer;
  append_bytes(normalizer, 1, "identity");
  append_integer(normalizer, 3, vocabulary.flag(kAddSpacePrefix, true) ? 1 : 0);
  append_integer(normalizer, 4, 0);  // keeps spaces
  append_bytes(model, 3, normalizer);
  return model;
}

Json config_json(const GgufVocabulary& vocabulary, bool sentencepiece) {
  Json json;
  json["tokenizer_class"] = sentencepiece ? "LlamaTokenizer" : "PreTrainedTokenizerFast";
  for (const auto& [key, metadata_key] :
       {std::pair{"bos_token", kBos}, std::pair{"eos_token", kEos},
        std::pair{"unk_token", kUnknown}, std::pair{"pad_token", kPadding}}) {
    if (const auto token = vocabulary.named(metadata_key)) json[key] = *token;
  }
  if (sentencepiece) {
    json["add_bos_token"] = vocabulary.flag(kAddBos, true);
    json["add_eos_token"] = vocabulary.flag(kAddEos, false);
    json["legacy"] = true;
  }
  if (vocabulary.metadata.has(kChatTemplate)) {
    json["chat_template"] = vocabulary.metadata.text(kChatTemplate);
  }
  return json;
}

}  // namespace

std::vector<SideFile> gguf_tokenizer_files(const GgufMetadata& metadata) {
  const std::string model = metadata.has(kModel) ? metadata.text(kModel) : "none";
  if (model == "none") return {};
  const bool sentencepiece = model == "llama";
  if (!sentencepiece && model != "gpt2") {
    metadata.fail(kModel, "'" + model + "' is not implemented",
                  "llama (SentencePiece) and gpt2 (byte-level BPE) are");
  }
  const GgufVocabulary vocabulary(metadata);
  std::vector<SideFile> files;
  if (sentencepiece) {
    files.push_back({"tokenizer.model", sentencepiece_model(vocabulary)});
  } else {
    files.push_back({"tokenizer.json", text_of(bpe_json(vocabulary), metadata)});
  }
  files.push_back(
      {"tokenizer_config.json", text_of(config_json(vocabulary, sentencepiece), metadata)});
  return files;
}

TokenizerParts read_gguf_tokenizer(const std::filesystem::path& file) {
  const std::vector<SideFile> files = gguf_tokenizer_files(GgufFile::open(file)->metadata());
  if (files.empty()) throw Error(file.string(), "no tokenizer in its metadata");
  const std::string where = file.string();
  const TokenizerConfig config =
      tokenizer_config_from(parse_json(files[1].bytes, where), where + ": tokenizer");
  const bool sentencepiece = files[0].name == "tokenizer.model";
  TokenizerParts parts =
      sentencepiece ? read_sentencepiece(file, files[0].bytes, config)
                    : read_tokenizer_json(parse_json(files[0].bytes, where), where, config);
  parts.description =
      file.filename().string() + (sentencepiece ? " (SentencePiece)" : " (byte-level BPE)");
  return parts;
}

}  // namespace nibble
