#include "src/model/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "src/tensor/error.h"

namespace nibble {

namespace {

std::vector<std::string> matches(const char* pattern, const std::string& text) {
  const Regex regex(pattern, "test");
  std::vector<RegexMatch> found;
  RegexScanner(regex).find_all(text, found);
  std::vector<std::string> result;
  for (const RegexMatch& match : found) {
    result.push_back(text.substr(match.begin, match.end - match.begin));
  }
  return result;
}

using Strings = std::vector<std::string>;

}  // namespace

TEST(Regex, SpaceIsUnicodeWhiteSpace) {
  // U+180E was white space until Unicode 6.3, and is still so for PCRE2's own \s.
  EXPECT_EQ(matches(R"(\s)", "a\u00A0\u180E\u3000\x1C"), (Strings{"\u00A0", "\u3000"}));
  EXPECT_EQ(matches(R"([^\s]+)", "a\u180Eb \u2028"), (Strings{"a\u180Eb"}));
}

TEST(Regex, WordsContainMarks) {
  EXPECT_EQ(matches(R"(\w+)", "cafe\u0301 \u0939\u093F\u0928\u094D x_1-y"),
            (Strings{"cafe\u0301", "\u0939\u093F\u0928\u094D", "x_1", "y"}));
}

TEST(Regex, ScriptsAreTheirOwnNotTheirExtensions) {
  // U+3001 is common punctuation that Han's extensions contain.
  EXPECT_EQ(matches(R"(\p{Han}+)", "\u6211\u3001\u60F3"), (Strings{"\u6211", "\u60F3"}));
}

TEST(Regex, LinesBeginAndEndAtNewlines) {
  EXPECT_EQ(matches("^.", "a\nb\rc"), (Strings{"a", "b"}));
}

TEST(Regex, EmptyMatchesDoNotRepeat) {
  const Regex regex("x*", "test");
  std::vector<RegexMatch> found;
  RegexScanner(regex).find_all("axb", found);
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].end, 0u);
  EXPECT_EQ(found[1].begin, 1u);
  EXPECT_EQ(found[1].end, 2u);
  EXPECT_EQ(found[2].begin, 3u);
}

TEST(Regex, LiteralsHaveNoSpecialCharacters) {
  const Regex regex = Regex::literal("(.", "test");
  std::vector<RegexMatch> found;
  RegexScanner(regex).find_all("a(.(b", found);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].begin, 1u);
}

TEST(Regex, WhatWouldMeanSomethingElseIsRefused) {
  for (const char* pattern : {R"(\h)", R"(\R)", R"(\b)", R"(\1)", R"(a{2}+)", R"(a{,2})", "[a&&b]",
                              "[a[b]]", "[[:alpha:]]", "(?m:.)", "(?<name>a)", "a(?i)b", "(*UTF)a",
                              R"(\pL)", R"([\W])", "[a", R"(a\)", R"(\xFF)"}) {
    try {
      const Regex regex(pattern, "file: key");
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::StartsWith("file: key")) << pattern;
    }
  }
}

TEST(Regex, AMegabyteOfSpacesIsOneMatch) {
  const std::string text(1 << 20, ' ');
  const auto found = matches(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", text);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].size(), text.size());
}

TEST(Regex, APatternThatDoesNotEndIsAnError) {
  EXPECT_THROW(matches("(a+)+$", std::string(40, 'a') + "b"), Error);
}

}  // namespace nibble
