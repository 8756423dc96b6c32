// SentencePiece models, encoded by the library itself (Kudo, Richardson 2018, arXiv:1808.06226).
#include <sentencepiece_processor.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "src/model/added_tokens.h"
#include "src/model/normalizer.h"
#include "src/model/token_borders.h"
#include "src/model/tokenizer_config.h"
#include "src/model/tokenizer_parts.h"
#include "src/model/tokenizer_sentencepiece_spec.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

using Processor = sentencepiece::SentencePieceProcessor;

constexpr std::string_view kMark = "\u2581";

// A second normalizer_spec (field 3 of ModelProto) with add_dummy_prefix (field 3) = false:
// protocol buffers merge it into the first.
constexpr std::string_view kNoDummyPrefix("\x1A\x02\x18\x00", 4);

[[noreturn]] void refuse(const std::filesystem::path& file) {
  throw Error(file.string(), "neither a SentencePiece model nor a tiktoken rank file",
              "is the file complete?");
}

std::shared_ptr<const Processor> load(const std::filesystem::path& file, const std::string& bytes,
                                      bool dummy_prefix) {
  auto processor = std::make_shared<Processor>();
  std::string model = bytes;
  if (!dummy_prefix) model += kNoDummyPrefix;
  bool loaded = false;
  try {
    loaded = processor->LoadFromSerializedProto(model).ok() && processor->GetPieceSize() > 0;
  } catch (const std::exception&) {  // of its trie, for pieces that it cannot hold
    loaded = false;
  }
  if (!loaded) refuse(file);
  return processor;
}

// Control pieces are never found in a text by the library; transformers finds them as added tokens.
void read_pieces(TokenizerParts& parts, const Processor& processor, const std::string& where) {
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    const std::string& piece = processor.IdToPiece(id);
    parts.table.add(piece, id, where);
    if (!processor.IsControl(id) && !processor.IsUnknown(id)) continue;
    AddedToken token;
    token.id = id;
    token.content = piece;
    token.special = true;
    if (!piece.empty()) add_token(parts, token, where);
  }
}

std::vector<int> encode_whole(const Processor& processor, std::string_view text) {
  std::vector<int> ids;
  const auto status = processor.Encode(text, &ids);
  if (!status.ok()) throw Error("SentencePiece", status.ToString());
  return ids;
}

// Spaces in front of texts, which the library cannot place as it does not know what stands before.
enum class Prefix { kNone, kEachText, kFirstText };

bool starts_with_space(std::string_view text) {
  return text.substr(0, 1) == " " || text.substr(0, kMark.size()) == kMark;
}

std::string with_prefix(const std::string& text, Prefix prefix, bool at_start) {
  const bool wanted = prefix == Prefix::kEachText ||
                      (prefix == Prefix::kFirstText && at_start && !starts_with_space(text));
  return wanted ? std::string(kMark).append(text) : text;
}

// A BPE model that leaves text as it is may be asked word by word, which is several times faster:
// the library merges the whole text as one word and remembers nothing.
class WordEncoder {
 public:
  WordEncoder(std::shared_ptr<const Processor> processor, const TokenTable& table)
      : processor_(std::move(processor)) {
    for (int32_t id = 0; id < table.size(); ++id) borders_.add(table.text(id));
  }

  void encode(const std::string& text, std::vector<int32_t>& ids) const {
    const std::string marked = replace_all(text, " ", std::string(kMark));
    std::unordered_map<std::string_view, std::vector<int>> seen;
    std::vector<size_t> ends;
    borders_.cut(marked, ends);
    size_t begin = 0;
    for (const size_t end : ends) {
      const std::string_view word = std::string_view(marked).substr(begin, end - begin);
      auto [entry, is_new] = seen.try_emplace(word);
      if (is_new) entry->second = encode_whole(*processor_, word);
      ids.insert(ids.end(), entry->second.begin(), entry->second.end());
      begin = end;
    }
  }

 private:
  std::shared_ptr<const Processor> processor_;
  TokenBorders borders_;
};

void require_known_class(const TokenizerConfig& config) {
  constexpr std::array<std::string_view, 4> kKnown{"", "LlamaTokenizer", "CodeLlamaTokenizer",
                                                   "GemmaTokenizer"};
  for (const std::string_view known : kKnown) {
    if (config.tokenizer_class == known) return;
  }
  throw Error(config.where,
              "tokenizer_class '" + config.tokenizer_class +
                  "' with a SentencePiece model is not implemented",
              "save the tokenizer as tokenizer.json");
}

}  // namespace

TokenizerParts read_sentencepiece(const std::filesystem::path& file, const std::string& bytes,
                                  const TokenizerConfig& config) {
  require_known_class(config);
  const std::optional<SentencePieceSpec> read = read_sentencepiece_spec(bytes);
  if (!read) refuse(file);
  const SentencePieceSpec& spec = *read;
  const bool by_word = spec.bpe && spec.is_identity();
  const bool own_prefix = by_word || !config.legacy;
  const auto processor = load(file, bytes, !own_prefix);
  TokenizerParts parts;
  read_pieces(parts, *processor, file.string());
  Prefix prefix = Prefix::kNone;
  if (own_prefix && spec.dummy_prefix) {
    prefix = config.legacy ? Prefix::kEachText : Prefix::kFirstText;
  }
  if (by_word) {
    const auto words = std::make_shared<const WordEncoder>(processor, parts.table);
    parts.encode = [=](const std::string& text, bool at_start, std::vector<int32_t>& ids) {
      words->encode(with_prefix(text, prefix, at_start), ids);
    };
  } else {
    parts.encode = [=](const std::string& text, bool at_start, std::vector<int32_t>& ids) {
      const auto pieces = encode_whole(*processor, with_prefix(text, prefix, at_start));
      ids.insert(ids.end(), pieces.begin(), pieces.end());
    };
  }
  parts.decoder = TokenDecoder::sentencepiece(spec.dummy_prefix);
  if (processor->bos_id() >= 0) parts.bos = processor->bos_id();
  if (processor->eos_id() >= 0) parts.eos = processor->eos_id();
  apply_config(parts, config);
  apply_bos_rule(parts, config, parts.bos.has_value());
  parts.description = "tokenizer.model (SentencePiece)";
  return parts;
}

}  // namespace nibble
