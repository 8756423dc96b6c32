#include "src/model/utf8.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <optional>
#include <string>

#include "src/model/byte_letters.h"

namespace nibble {

// Unicode 15, tables 3-8 to 3-11.
TEST(Utf8, EachMaximalPartOfAnInvalidSequenceBecomesOneReplacement) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(repair_utf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(repair_utf8("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(repair_utf8("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(repair_utf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
  EXPECT_EQ(repair_utf8("\xF0\x9F\xA6\x99"), "\U0001F999");
}

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_EQ(first_invalid_utf8("ab\u00E9\U0010FFFF"), std::nullopt);
  EXPECT_EQ(first_invalid_utf8("ab\xC3"), 2u);
  EXPECT_EQ(first_invalid_utf8("\xF4\x90\x80\x80"), 0u);  // beyond U+10FFFF
  EXPECT_EQ(first_invalid_utf8("a\xED\xA0\x80"), 1u);     // a surrogate
}

TEST(Utf8, EveryCharacterIsWrittenAndReadBack) {
  for (char32_t character = 0; character <= 0x10FFFF; ++character) {
    if (character >= 0xD800 && character < 0xE000) continue;
    std::string text;
    append_utf8(text, character);
    size_t position = 0;
    ASSERT_EQ(next_character(text, position), character);
    ASSERT_EQ(position, text.size());
    ASSERT_EQ(utf8_length(text[0]), text.size());
    ASSERT_EQ(first_invalid_utf8(text), std::nullopt);
  }
}

TEST(Utf8, ACharacterCutOffEndsWithItsText) {
  for (const std::string text : {"\xC3", "\xE2\x82", "\xF0\x9F\x98"}) {
    size_t position = 0;
    next_character(text, position);
    EXPECT_EQ(position, text.size());
  }
}

TEST(ByteLetters, SpellEveryByte) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  EXPECT_EQ(bytes_of_letters(letters_of_bytes(bytes)), bytes);
  EXPECT_EQ(letters_of_bytes(" \n!"), "\u0120\u010A!");
  EXPECT_EQ(bytes_of_letters(" "), std::nullopt);
  EXPECT_EQ(bytes_of_letters("\u0144"), std::nullopt);
}

}  // namespace nibble
