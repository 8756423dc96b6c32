#include "src/model/utf8.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace nibble {

namespace {

struct Sequence {
  size_t length;  // bytes that belong together, at least 1
  bool valid;
};

// Unicode 15, table 3-7: which second byte may follow a lead byte.
bool second_byte_allowed(unsigned char lead, unsigned char second) {
  switch (lead) {
    case 0xE0:
      return second >= 0xA0 && second <= 0xBF;
    case 0xED:
      return second >= 0x80 && second <= 0x9F;
    case 0xF0:
      return second >= 0x90 && second <= 0xBF;
    case 0xF4:
      return second >= 0x80 && second <= 0x8F;
    default:
      return second >= 0x80 && second <= 0xBF;
  }
}

Sequence sequence_at(std::string_view bytes, size_t position) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[position + i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false};
  const size_t length = utf8_length(bytes[position]);
  const size_t left = bytes.size() - position;
  if (left < 2 || !second_byte_allowed(lead, byte(1))) return {1, false};
  for (size_t i = 2; i < length; ++i) {
    if (i >= left || (byte(i) & 0xC0) != 0x80) return {i, false};
  }
  return {length, true};
}

}  // namespace

std::optional<size_t> first_invalid_utf8(std::string_view bytes) {
  for (size_t position = 0; position < bytes.size();) {
    const Sequence sequence = sequence_at(bytes, position);
    if (!sequence.valid) return position;
    position += sequence.length;
  }
  return std::nullopt;
}

size_t utf8_length(char first_byte) {
  const auto lead = static_cast<unsigned char>(first_byte);
  if (lead < 0xC0) return 1;
  if (lead < 0xE0) return 2;
  return lead < 0xF0 ? 3 : 4;
}

char32_t next_character(std::string_view text, size_t& position) {
  const size_t length = std::min(utf8_length(text[position]), text.size() - position);
  const auto lead = static_cast<unsigned char>(text[position]);
  char32_t character = length == 1 ? lead : lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    character = (character << 6) | (static_cast<unsigned char>(text[position + i]) & 0x3Fu);
  }
  position += length;
  return character;
}

void append_utf8(std::string& text, char32_t character) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (character < 0x80) {
    put(character);
  } else if (character < 0x800) {
    put(0xC0 | (character >> 6));
    put(0x80 | (character & 0x3F));
  } else if (character < 0x10000) {
    put(0xE0 | (character >> 12));
    put(0x80 | ((character >> 6) & 0x3F));
    put(0x80 | (character & 0x3F));
  } else {
    put(0xF0 | (character >> 18));
    put(0x80 | ((character >> 12) & 0x3F));
    put(0x80 | ((character >> 6) & 0x3F));
    put(0x80 | (character & 0x3F));
  }
}

std::string repair_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (size_t position = 0; position < bytes.size();) {
    const Sequence sequence = sequence_at(bytes, position);
    text += sequence.valid ? bytes.substr(position, sequence.length) : "\xEF\xBF\xBD";
    position += sequence.length;
  }
  return text;
}

}  // namespace nibble
