// GPT-2's alphabet: each byte is written as one printable character, so that a vocabulary of byte
// strings can be stored as text (Radford et al. 2019, encoder.py). The printable Latin-1 bytes
// stand for themselves, the other 68 are U+0100, U+0101, ... in the order of the byte.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace nibble {

// By byte: its letter in UTF-8.
const std::array<std::string, 256>& byte_letters();

// The bytes that the letters spell; nothing if a character is none of the letters.
std::optional<std::string> bytes_of_letters(std::string_view letters);

// Each byte of text replaced by its letter.
std::string letters_of_bytes(std::string_view bytes);

}  // namespace nibble
