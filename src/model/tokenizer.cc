#include "src/model/tokenizer.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/json.h"
#include "src/model/added_tokens.h"
#include "src/model/tokenizer_config.h"
#include "src/model/tokenizer_parts.h"
#include "src/model/utf8.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

std::string read_bytes(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw Error(file.string(), "cannot be read");
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

}  // namespace

TokenizerParts read_tokenizer_parts(const std::filesystem::path& folder) {
  if (std::filesystem::is_regular_file(folder)) return read_gguf_tokenizer(folder);
  const TokenizerConfig config = read_tokenizer_config(folder);
  const auto json = folder / "tokenizer.json";
  const auto vocab = folder / "vocab.json";
  const auto merges = folder / "merges.txt";
  const auto model = folder / "tokenizer.model";
  using std::filesystem::exists;
  if (exists(json)) return read_tokenizer_json(read_json(json), json.string(), config);
  if (exists(vocab) && exists(merges)) return read_vocab_and_merges(vocab, merges, config);
  if (!exists(model)) {
    throw Error(folder.string(),
                "no tokenizer: neither tokenizer.json, nor vocab.json with merges.txt, nor "
                "tokenizer.model",
                "copy the tokenizer's files beside the model");
  }
  const std::string bytes = read_bytes(model);
  return looks_like_tiktoken(bytes) ? read_tiktoken(model, bytes, config)
                                    : read_sentencepiece(model, bytes, config);
}

class Tokenizer::State {
 public:
  explicit State(TokenizerParts from)
      : parts(std::move(from)),
        raw_tokens(parts.added, false, Normalizer()),
        normalized_tokens(parts.added, true, parts.normalizer),
        special(static_cast<size_t>(parts.table.size()), false) {
    for (const AddedToken& token : parts.added) {
      if (token.special) special[static_cast<size_t>(token.id)] = true;
    }
    const auto& prefix = parts.prefix;
    if (!parts.bos && !prefix.empty()) parts.bos = prefix.front();
    adds_bos = parts.bos && std::find(prefix.begin(), prefix.end(), *parts.bos) != prefix.end();
  }

  TokenizerParts parts;
  AddedTokenFinder raw_tokens;
  AddedTokenFinder normalized_tokens;
  std::vector<bool> special;  // by id
  bool adds_bos = false;

  // Text between tokens that are looked for before normalization.
  void encode_part(std::string_view text, bool at_start, std::vector<int32_t>& ids) const {
    const std::string normalized = parts.normalizer.apply(std::string(text));
    for (const TextPart& part : normalized_tokens.split(normalized)) {
      if (part.id) {
        ids.push_back(*part.id);
      } else {
        const bool first = at_start && part.text.data() == normalized.data();
        parts.encode(std::string(part.text), first, ids);
      }
    }
  }
};

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::open(const std::filesystem::path& folder) {
  return Tokenizer(std::make_unique<State>(read_tokenizer_parts(folder)));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  if (const auto bad = first_invalid_utf8(text)) {
    throw Error("text", "byte " + std::to_string(*bad) + " is not valid UTF-8",
                "convert the text to UTF-8");
  }
  std::vector<int32_t> ids;
  const auto& parts = state_->parts;
  if (add_special) ids = parts.prefix;
  for (const TextPart& part : state_->raw_tokens.split(text)) {
    if (part.id) {
      ids.push_back(*part.id);
    } else {
      state_->encode_part(part.text, part.text.data() == text.data(), ids);
    }
  }
  if (add_special) ids.insert(ids.end(), parts.suffix.begin(), parts.suffix.end());
  return ids;
}

// An id without a token, as a padded embedding has, decodes to nothing, as in transformers.
std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  const TokenTable& table = state_->parts.table;
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const int32_t id : ids) {
    if (id < 0 || id >= table.size() || table.text(id).empty()) continue;
    if (skip_special && state_->special[static_cast<size_t>(id)]) continue;
    tokens.push_back(table.text(id));
  }
  return state_->parts.decoder.apply(std::move(tokens));
}

int64_t Tokenizer::vocabulary_size() const { return state_->parts.table.size(); }
std::optional<int32_t> Tokenizer::bos() const { return state_->parts.bos; }
std::optional<int32_t> Tokenizer::eos() const { return state_->parts.eos; }
bool Tokenizer::adds_bos() const { return state_->adds_bos; }
const std::string& Tokenizer::description() const { return state_->parts.description; }

}  // namespace nibble
