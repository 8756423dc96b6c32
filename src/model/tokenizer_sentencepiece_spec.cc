#include "src/model/tokenizer_sentencepiece_spec.h"

#include <cstdint>
#include <optional>
#include <string_view>

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

std::optional<Field> take_field(std::string_view& rest) {
  const auto tag = take_varint(rest);
  if (!tag) return std::nullopt;
  Field field;
  field.number = *tag >> 3;
  const uint64_t type = *tag & 7;
  if (type == 0) {
    const auto value = take_varint(rest);
    if (!value) return std::nullopt;
    field.value = *value;
    return field;
  }
  std::optional<uint64_t> size;
  if (type == 1) size = 8;
  if (type == 2) size = take_varint(rest);
  if (type == 5) size = 4;
  if (!size || *size > rest.size()) return std::nullopt;
  field.bytes = rest.substr(0, *size);
  rest.remove_prefix(*size);
  return field;
}

}  // namespace

SentencePieceSpec read_sentencepiece_spec(std::string_view model) {
  constexpr uint64_t kTrainer = 2;
  constexpr uint64_t kNormalizer = 3;
  constexpr uint64_t kBpe = 2;
  SentencePieceSpec spec;
  bool suffix_spaces = false;
  bool charsmap = false;
  bool removes_spaces = true;
  bool escapes_spaces = true;
  while (const auto section = take_field(model)) {
    std::string_view rest = section->bytes;
    if (section->number != kTrainer && section->number != kNormalizer) continue;
    while (const auto field = take_field(rest)) {
      if (section->number == kTrainer) {
        if (field->number == 3) spec.bpe = field->value == kBpe;
        if (field->number == 24) suffix_spaces = field->value != 0;
        continue;
      }
      if (field->number == 2) charsmap = !field->bytes.empty();
      if (field->number == 3) spec.dummy_prefix = field->value != 0;
      if (field->number == 4) removes_spaces = field->value != 0;
      if (field->number == 5) escapes_spaces = field->value != 0;
    }
  }
  spec.identity = !suffix_spaces && !charsmap && !removes_spaces && escapes_spaces;
  return spec;
}

}  // namespace nibble
