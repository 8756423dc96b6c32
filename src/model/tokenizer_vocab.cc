// vocab.json + merges.txt: the byte-level BPE of GPT-2, and Qwen2's, which differs in normalizer
// and pre-tokenizer. Which one it is stands in tokenizer_config.json.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <string>
#include <utility>
#include <vector>

#include "formats/json.h"
#include "src/model/bpe.h"
#include "src/model/pretokenizer.h"
#include "src/model/tokenizer_config.h"
#include "src/model/tokenizer_parts.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

enum class Family { kGpt2, kQwen2 };

Family family_of(const TokenizerConfig& config) {
  if (config.tokenizer_class == "GPT2Tokenizer") return Family::kGpt2;
  if (config.tokenizer_class == "Qwen2Tokenizer") return Family::kQwen2;
  if (!config.tokenizer_class.empty()) {
    throw Error(config.where,
                "tokenizer_class '" + config.tokenizer_class +
                    "' with vocab.json and merges.txt is not implemented",
                "save the tokenizer as tokenizer.json");
  }
  if (config.model_type == "gpt2") return Family::kGpt2;
  if (config.model_type.starts_with("qwen2") || config.model_type.starts_with("qwen3")) {
    return Family::kQwen2;
  }
  throw Error(config.where,
              "tokenizer_class is missing, and vocab.json does not say how to cut words",
              "GPT2Tokenizer and Qwen2Tokenizer are known");
}

std::vector<Merge> read_merges(const std::filesystem::path& file, const TokenTable& table) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw Error(file.string(), "cannot be read");
  std::vector<Merge> merges;
  std::string line;
  for (int64_t number = 1; std::getline(stream, line); ++number) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty() || line.starts_with("#version")) continue;
    const std::string where = file.string() + ": line " + std::to_string(number);
    const size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
      throw Error(where, "expected two tokens with a space between, found '" + line + "'");
    }
    merges.push_back(merge_of(table, line.substr(0, space), line.substr(space + 1), where));
  }
  return merges;
}

}  // namespace

TokenizerParts read_vocab_and_merges(const std::filesystem::path& vocab,
                                     const std::filesystem::path& merges,
                                     const TokenizerConfig& config) {
  const Family family = family_of(config);
  const Json json = read_json(vocab);
  TokenizerParts parts;
  parts.table = read_vocabulary(JsonView(json, vocab.string()));
  const bool prefix = config.add_prefix_space.value_or(false);
  Pretokenizer pretokenizer =
      family == Family::kGpt2 ? Pretokenizer::gpt2(prefix) : Pretokenizer::qwen2(prefix);
  if (family == Family::kQwen2) parts.normalizer = Normalizer::nfc();
  set_bpe(parts, std::move(pretokenizer), read_merges(merges, parts.table), {});
  parts.decoder = TokenDecoder::byte_level();
  TokenizerConfig complete = config;
  // The defaults of transformers' GPT2Tokenizer.
  constexpr const char* kEndOfText = "<|endoftext|>";
  if (family == Family::kGpt2 && parts.table.id(kEndOfText)) {
    if (!complete.bos) complete.bos = kEndOfText;
    if (!complete.eos) complete.eos = kEndOfText;
  }
  apply_config(parts, complete);
  apply_bos_rule(parts, complete, false);
  parts.description = family == Family::kGpt2 ? "vocab.json and merges.txt (GPT-2)"
                                              : "vocab.json and merges.txt (Qwen2)";
  return parts;
}

}  // namespace nibble
