#include "formats/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <string>

#include "src/tensor/error.h"
#include "tests/formats/raw_safetensors.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using testing::HasSubstr;

std::string refusal(const std::string& text) {
  return message_of<Error>([&] { parse_json(text, "x.json"); });
}

TEST(Json, KeepsTheOrderOfKeys) {
  EXPECT_EQ(parse_json(R"({"z": 1, "a": {"y": [], "b": null}, "m": 1.5})", "x").dump(),
            R"({"z":1,"a":{"y":[],"b":null},"m":1.5})");
}

TEST(Json, ReadsEveryKindOfValue) {
  const std::string text = R"([true,false,null,-3,18446744073709551615,0.5,"é\n",{},[[]]])";
  EXPECT_EQ(parse_json(text, "x"), Json::parse(text));
  EXPECT_EQ(parse_json(" 7 ", "x").get<int>(), 7);
}

TEST(Json, DuplicateKeysAreRefusedWithTheirPlace) {
  EXPECT_EQ(refusal(R"({"a":1,"a":2})"), "x.json: key 'a' appears twice in the outermost object");
  EXPECT_EQ(refusal(R"({"m":{"k":[{"a":1,"b":2,"a":1}]}})"),
            "x.json: key 'a' appears twice in 'm' > 'k'");
  EXPECT_EQ(refusal(R"([{"a":1},{"a":1}])"), "");
}

TEST(Json, DuplicateKeysAreFoundInLargeObjects) {
  for (const int repeated : {0, 15, 16, 17, 99}) {
    std::string text = "{";
    for (int i = 0; i < 100; ++i) text += "\"k" + std::to_string(i) + "\":0,";
    text += "\"k" + std::to_string(repeated) + "\":0}";
    EXPECT_THAT(refusal(text), HasSubstr("'k" + std::to_string(repeated) + "' appears twice"));
  }
}

// As a vocabulary is; a search among all keys for each new one would take minutes.
TEST(Json, AnObjectOfManyKeysIsReadWhole) {
  constexpr int kKeys = 100'000;
  std::string text = "{";
  for (int i = 0; i < kKeys; ++i)
    text += "\"" + std::to_string(i) + "\":" + std::to_string(i) + ",";
  text.back() = '}';
  const Json json = parse_json(text, "x");
  ASSERT_EQ(json.size(), static_cast<size_t>(kKeys));
  int i = 0;
  for (const auto& [key, value] : json.items()) {
    ASSERT_EQ(key, std::to_string(i));
    ASSERT_EQ(value, i++);
  }
}

TEST(Json, WhatIsNotJsonIsRefusedWithItsByte) {
  EXPECT_THAT(refusal(R"({"a":{"b":NaN}})"), HasSubstr("not valid JSON at byte 11, in 'a'"));
  for (const char* text : {"", " ", "{", "[1,]", "{}{}", "nul", "'a'", "01", "{\"a\" 1}",
                           "\"\xff\"", "\"\\ud800\"", "1e999", "[Infinity]", "// c\n1"}) {
    EXPECT_THAT(refusal(text), HasSubstr("x.json: not valid JSON")) << text;
  }
  EXPECT_THAT(refusal(std::string("{}\0{}", 5)), HasSubstr("at byte 2: a zero byte"));
}

TEST(Json, NestingHasABound) {
  EXPECT_EQ(refusal(std::string(256, '[') + std::string(256, ']')), "");
  EXPECT_THAT(refusal(std::string(257, '[')), HasSubstr("nested deeper than 256 levels"));
  EXPECT_THAT(refusal(std::string(900'000, '[')), HasSubstr("nested deeper"));
}

TEST(Json, FilesAreNamedInMessages) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "config.json";
  EXPECT_THAT(message_of<Error>([&] { read_json(file); }),
              HasSubstr(file.string() + ": cannot be read"));
  EXPECT_THAT(message_of<Error>([&] { read_json(folder.path()); }), HasSubstr("cannot be read"));
  write_file(file, "{\"a\":");
  EXPECT_THAT(message_of<Error>([&] { read_json(file); }),
              HasSubstr(file.string() + ": not valid"));
  write_file(file, "{\"a\": 1}\n");
  EXPECT_EQ(read_json(file)["a"], 1);
}

}  // namespace
}  // namespace nibble
