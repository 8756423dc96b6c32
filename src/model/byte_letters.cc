#include "src/model/byte_letters.h"

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "src/model/utf8.h"

namespace nibble {

namespace {

constexpr char32_t kFirstSubstitute = 0x100;
constexpr size_t kLetters = 0x144;  // one past the last letter

bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

struct Alphabet {
  std::array<std::string, 256> letters;
  std::array<int, kLetters> bytes;  // by letter; -1 for none

  Alphabet() {
    bytes.fill(-1);
    char32_t substitute = kFirstSubstitute;
    for (int byte = 0; byte < 256; ++byte) {
      const char32_t letter = stands_for_itself(byte) ? static_cast<char32_t>(byte) : substitute++;
      append_utf8(letters[static_cast<size_t>(byte)], letter);
      bytes[letter] = byte;
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet kAlphabet;
  return kAlphabet;
}

}  // namespace

const std::array<std::string, 256>& byte_letters() { return alphabet().letters; }

std::optional<std::string> bytes_of_letters(std::string_view letters) {
  const auto& bytes = alphabet().bytes;
  std::string result;
  for (size_t position = 0; position < letters.size();) {
    const char32_t letter = next_character(letters, position);
    if (letter >= kLetters || bytes[letter] < 0) return std::nullopt;
    result.push_back(static_cast<char>(bytes[letter]));
  }
  return result;
}

std::string letters_of_bytes(std::string_view bytes) {
  std::string result;
  result.reserve(bytes.size() + bytes.size() / 4);
  for (const char byte : bytes) result += byte_letters()[static_cast<unsigned char>(byte)];
  return result;
}

}  // namespace nibble
