#include "src/model/tokenizer_sentencepiece_spec.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

namespace nibble {

namespace {

// Protocol buffers, wire types 0 (varint), 1 (8 bytes), 2 (length and bytes), 5 (4 bytes).
struct Field {
  uint64_t number = 0;
  uint64_t value = 0;      // of a varint
  std::string_view bytes;  // of a string or message
};

std::optional<uint64_t> take_varint(std::string_view& rest) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && !rest.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(rest[0]);
    rest.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

// What is no field stays where it is.
std::optional<Field> take_field(std::string_view& bytes) {
  std::string_view rest = bytes;
  const auto tag = take_varint(rest);
  if (!tag || *tag > UINT32_MAX) return std::nullopt;
  Field field;
  field.number = *tag >> 3;
  const uint64_t type = *tag & 7;
  if (type == 0) {
    const auto value = take_varint(rest);
    if (!value) return std::nullopt;
    field.value = *value;
  } else {
    std::optional<uint64_t> size;
    if (type == 1) size = 8;
    if (type == 2) size = take_varint(rest);
    if (type == 5) size = 4;
    if (!size || *size > rest.size()) return std::nullopt;
    field.bytes = rest.substr(0, *size);
    rest.remove_prefix(*size);
  }
  bytes = rest;
  return field;
}

// A table of characters as the library searches it, without looking where it ends: the length of a
// trie, its units (Darts-clone: the children of unit i lie around i ^ offset, one for each byte),
// and the texts that its leaves point into. Whether no search can leave it.
bool is_charsmap(std::string_view bytes) {
  uint32_t length = 0;
  if (bytes.size() < sizeof length) return false;
  std::memcpy(&length, bytes.data(), sizeof length);
  bytes.remove_prefix(sizeof length);
  if (length == 0 || length % sizeof(uint32_t) != 0 || length >= bytes.size()) return false;
  std::vector<uint32_t> units(length / sizeof(uint32_t));
  std::memcpy(units.data(), bytes.data(), length);
  const std::string_view texts = bytes.substr(length);
  constexpr uint32_t kIsLeaf = 1U << 31;
  constexpr uint32_t kHasLeaf = 1U << 8;
  for (size_t i = 0; i < units.size(); ++i) {
    const uint32_t unit = units[i];
    if ((unit & kIsLeaf) != 0) continue;
    const size_t children = i ^ (size_t{unit >> 10} << ((unit & 1U << 9) >> 6));
    if ((children | 0xFF) >= units.size()) return false;
    if ((unit & kHasLeaf) != 0 && (units[children] & ~kIsLeaf) >= texts.size()) return false;
  }
  return texts.back() == '\0';
}

// Reads the fields of NormalizerSpec; whether it is sound.
bool read_normalizer(std::string_view rest, SentencePieceSpec& spec) {
  while (const auto field = take_field(rest)) {
    if (field->number == 2) {
      spec.charsmap = !field->bytes.empty();
      if (spec.charsmap && !is_charsmap(field->bytes)) return false;
    }
    if (field->number == 3) spec.dummy_prefix = field->value != 0;
    if (field->number == 4) spec.removes_spaces = field->value != 0;
    if (field->number == 5) spec.escapes_spaces = field->value != 0;
  }
  return rest.empty();
}

// The same of TrainerSpec.
bool read_trainer(std::string_view rest, SentencePieceSpec& spec) {
  constexpr uint64_t kBpe = 2;
  while (const auto field = take_field(rest)) {
    if (field->number == 3) spec.bpe = field->value == kBpe;
    if (field->number == 24) spec.suffix_spaces = field->value != 0;
  }
  return rest.empty();
}

}  // namespace

std::optional<SentencePieceSpec> read_sentencepiece_spec(std::string_view model) {
  constexpr uint64_t kTrainer = 2;
  constexpr uint64_t kNormalizer = 3;
  constexpr uint64_t kDenormalizer = 5;
  SentencePieceSpec spec;
  SentencePieceSpec denormalizer;
  bool sound = true;
  while (const auto section = take_field(model)) {
    if (section->number == kTrainer) sound = read_trainer(section->bytes, spec) && sound;
    if (section->number == kNormalizer) sound = read_normalizer(section->bytes, spec) && sound;
    if (section->number == kDenormalizer) {
      sound = read_normalizer(section->bytes, denormalizer) && sound;
    }
  }
  if (!sound || !model.empty()) return std::nullopt;
  return spec;
}

}  // namespace nibble
