// Tables of characters in SentencePiece models, which the library searches without a bound.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/model/tokenizer_sentencepiece_spec.h"

namespace nibble {
namespace {

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}

std::string field(uint64_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}

// A model of nothing but a table: 256 units, one of them given, and the texts of the leaves.
std::string model_with(uint32_t unit, std::string_view texts, uint32_t units = 256,
                       uint64_t section = 3) {
  std::vector<uint32_t> table(1 + units);
  table[0] = units * 4;
  if (units > 7) table[1 + 7] = unit;
  std::string bytes(reinterpret_cast<const char*>(table.data()), table.size() * 4);
  return field(section, field(2, bytes.append(texts)));
}

const std::string kEnd("\0", 1);

TEST(SentencePieceSpec, ATableWithChildrenInsideIsRead) {
  const auto spec = read_sentencepiece_spec(model_with(3U << 10, kEnd));
  ASSERT_TRUE(spec);
  EXPECT_TRUE(spec->charsmap);
  EXPECT_FALSE(spec->is_identity());
}

TEST(SentencePieceSpec, ATableThatASearchCanLeaveIsRefused) {
  EXPECT_FALSE(read_sentencepiece_spec(model_with(256U << 10, kEnd))) << "children behind the end";
  EXPECT_FALSE(read_sentencepiece_spec(model_with(1U << 10 | 1U << 9, kEnd))) << "in steps of 256";
  EXPECT_FALSE(read_sentencepiece_spec(model_with(0, kEnd, 255))) << "no room for every byte";
  EXPECT_FALSE(read_sentencepiece_spec(model_with(0, ""))) << "no texts";
  EXPECT_FALSE(read_sentencepiece_spec(model_with(0, "a"))) << "a text without end";
  EXPECT_FALSE(read_sentencepiece_spec(model_with(256U << 10, kEnd, 256, 5))) << "for decoding";
}

// Unit 7's own leaf is unit 0, whose value is unit 0's bits: 0.
TEST(SentencePieceSpec, ALeafThatPointsBehindTheTextsIsRefused) {
  const uint32_t with_leaf = 1U << 8 | 7U << 10;
  EXPECT_TRUE(read_sentencepiece_spec(model_with(with_leaf, kEnd)));
  EXPECT_FALSE(read_sentencepiece_spec(model_with(1U << 8, kEnd))) << "its value is 256";
}

TEST(SentencePieceSpec, WhatIsNoMessageIsRefused) {
  EXPECT_TRUE(read_sentencepiece_spec(""));
  EXPECT_FALSE(read_sentencepiece_spec("\x1A\x05\x08"));
  EXPECT_FALSE(read_sentencepiece_spec(field(3, "\x0B")));  // a group, which could hide a table
}

}  // namespace
}  // namespace nibble
