#include "src/tensor/error.h"

#include <gtest/gtest.h>

#include <vector>

namespace nibble {
namespace {

TEST(Error, SaysWhereWhatAndWhatToTry) {
  const Error error("model.safetensors", "4 bytes left", "incomplete download?");
  EXPECT_STREQ(error.what(), "model.safetensors: 4 bytes left (incomplete download?)");
  EXPECT_EQ(error.where(), "model.safetensors");
  EXPECT_EQ(error.problem(), "4 bytes left");
  EXPECT_EQ(error.hint(), "incomplete download?");
  EXPECT_STREQ(Error("", "problem").what(), "problem");
}

TEST(Error, StaysOneLineWhateverANameHolds) {
  EXPECT_STREQ(Error("a\nb\x1b[31m", "caf\xc3\xa9\x7f").what(), "a?b?[31m: caf\xc3\xa9?");
}

TEST(NearestName, FindsASlipAndNothingElse) {
  const std::vector<std::string> known = {"model.norm.weight", "lm_head.weight", "awq"};
  EXPECT_EQ(nearest_name("model.norms.weight", known), "model.norm.weight");
  EXPECT_EQ(nearest_name("aqw", known), "awq");
  EXPECT_EQ(nearest_name("something else entirely", known), "");
}

}  // namespace
}  // namespace nibble
