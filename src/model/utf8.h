// UTF-8: check, walk, write, repair. Case and normal forms are in normalizer.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nibble {

// Byte position of the first byte that cannot be part of UTF-8 (surrogates and overlong forms
// cannot), or nothing.
std::optional<size_t> first_invalid_utf8(std::string_view bytes);

// The character at `position`, which moves behind it. text is valid UTF-8, position < size; of one
// that a foreign file cut off at the end, what is there.
char32_t next_character(std::string_view text, size_t& position);
// Bytes of the character that starts with this byte in valid UTF-8.
size_t utf8_length(char first_byte);
void append_utf8(std::string& text, char32_t character);

// Each maximal part of an invalid sequence becomes one U+FFFD (Unicode 15, section 3.9).
std::string repair_utf8(std::string_view bytes);

}  // namespace nibble
