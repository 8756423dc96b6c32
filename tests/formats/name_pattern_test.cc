#include "formats/name_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "src/tensor/error.h"
#include "tests/formats/raw_safetensors.h"

namespace nibble {
namespace {

using testing::HasSubstr;

const std::string kName = "model.layers.3.mlp.down_proj";

TEST(NamePattern, MatchesAsPythonsReMatchAndSearch) {
  const auto at_start = [](const char* expression) {
    return NamePattern(expression, "config").matches_at_start(kName);
  };
  EXPECT_TRUE(at_start("model"));
  EXPECT_TRUE(at_start(R"(model\.layers\.\d+\.mlp\..*proj$)"));
  EXPECT_TRUE(at_start("(?P<stack>.*)mlp"));
  EXPECT_FALSE(at_start("layers"));
  EXPECT_FALSE(at_start("model$"));
  EXPECT_TRUE(NamePattern("layers", "config").is_found_in(kName));
  EXPECT_TRUE(NamePattern("(?<=mlp[.])down", "config").is_found_in(kName));
  EXPECT_FALSE(NamePattern("^layers", "config").is_found_in(kName));
}

TEST(NamePattern, WhatIsNoExpressionIsNamed) {
  EXPECT_THAT(message_of<Error>([] { NamePattern("mlp(", "config.json: ignore"); }),
              HasSubstr("config.json: ignore: 'mlp(' is no regular expression"));
  EXPECT_THAT(message_of<Error>([] { NamePattern(std::string(50000, '('), "config"); }),
              HasSubstr("config: "));
  EXPECT_THAT(message_of<Error>([] { NamePattern("\xFF", "config"); }), HasSubstr("UTF-8"));
}

// Every way to split the letters between the two stars: 2^40.
TEST(NamePattern, WhatTriesTooManyWaysIsAnError) {
  const NamePattern pattern("(a+)+$", "config");
  EXPECT_THAT(message_of<Error>([&] { pattern.is_found_in(std::string(40, 'a') + "b"); }),
              HasSubstr("config: '(a+)+$' gives up on 'aaaa"));
}

}  // namespace
}  // namespace nibble
