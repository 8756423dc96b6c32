#include "src/pipeline/recipe.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quantizers/solvers/scale_search.h"
#include "src/pipeline/layer_scheme.h"
#include "src/pipeline/mixture.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

class RecipeFile : public testing::Test {
 protected:
  Recipe read(const std::string& text, const std::string& name = "recipe.yaml") {
    write_file(folder_.path() / name, text);
    return read_recipe(folder_.path() / name);
  }
  std::string error_of(const std::string& text) {
    try {
      read(text);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  TemporaryFolder folder_;
};

TEST_F(RecipeFile, HoldsEveryKindOfValue) {
  write_file(folder_.path() / "calib.txt", "text");
  const Recipe recipe = read(
      "method: gptq\n"
      "bits: 3\n"
      "symmetric: true\n"
      "dtype: bfloat16\n"
      "exclude: ['up_proj$', \"12\"]\n"
      "calibration: {dataset: calib.txt, samples: 7, pack: false}\n"
      "gptq:\n"
      "  damp: 0.05\n"
      "  scale_search: mse\n"
      "correct_past: 1\n"
      "rules:\n"
      "  - modules: down_proj\n"
      "    bits: 8\n"
      "  - {modules: 'layers\\.0\\.', keep: true}\n");
  EXPECT_EQ(recipe.method, "gptq");
  EXPECT_EQ(recipe.layers.scheme.bits, 3);
  EXPECT_EQ(recipe.layers.scheme.symmetric, true);
  EXPECT_EQ(recipe.layers.scheme.group_size, std::nullopt);
  EXPECT_EQ(recipe.dtype, Dtype::kBF16);
  EXPECT_EQ(recipe.exclude, (std::vector<std::string>{"up_proj$", "12"}));
  EXPECT_EQ(recipe.calibration.dataset, folder_.path() / "calib.txt") << "beside the recipe";
  EXPECT_EQ(recipe.calibration.samples, 7);
  EXPECT_FALSE(recipe.calibration.pack);
  EXPECT_EQ(recipe.gptq.damp, 0.05);
  EXPECT_EQ(recipe.gptq.search, ScaleSearch::kMse);
  EXPECT_EQ(recipe.correct_past, 1.);
  EXPECT_EQ(Recipe{}.past_share(false), 0.8);
  EXPECT_EQ(Recipe{}.past_share(true), 0.);
  ASSERT_EQ(recipe.rules.size(), 2U);
  EXPECT_EQ(recipe.rules[0].choice.scheme.bits, 8);
  EXPECT_EQ(recipe.rules[1].modules, "layers\\.0\\.");
  EXPECT_TRUE(recipe.rules[1].keep);
}

TEST_F(RecipeFile, WhatItSaysOfItselfReadsBackTheSame) {
  const Recipe recipe = read(
      "{method: gptq, group_size: -1, guard: false, output_head_bits: 8, transforms: [],\n"
      " rules: [{modules: x, solver: rtn, double_quant: true}]}");
  const std::string text = to_json(recipe).dump();
  EXPECT_EQ(to_json(read(text)).dump(), text);
  const std::string manifest = R"({"nibble": "0", "format": "gptq", "recipe": )" + text + "}";
  EXPECT_EQ(to_json(read(manifest, "nibble.json")).dump(), text);
}

TEST_F(RecipeFile, ErrorsNameTheFileTheKeyAndTheNearest) {
  EXPECT_NE(
      error_of("metod: rtn").find("recipe.yaml: unknown key 'metod' (did you mean 'method'?)"),
      std::string::npos)
      << error_of("metod: rtn");
  EXPECT_NE(error_of("gptq: {sweps: 1}").find("gptq: unknown key 'sweps'"), std::string::npos);
  EXPECT_NE(error_of("bits: four").find("bits: \"four\": expected a whole number"),
            std::string::npos)
      << error_of("bits: four");
  EXPECT_NE(error_of("symmetric: 1").find("expected true or false"), std::string::npos);
  EXPECT_NE(error_of("rules: {modules: x}").find("rules: expected a list"), std::string::npos);
  EXPECT_NE(error_of("bits: 3\nbits: 4").find("'bits' stands there twice"), std::string::npos);
  EXPECT_NE(error_of("[1, 2").find("recipe.yaml"), std::string::npos);
  EXPECT_NE(error_of("correct_past: 2").find("out of range"), std::string::npos);
  EXPECT_NE(error_of("gptq: {scale_search: best}").find("unknown search"), std::string::npos);
  EXPECT_THROW(read_recipe(folder_.path() / "absent.yaml"), Error);
  EXPECT_NE(error_of("bits: 4294967300").find("out of range"), std::string::npos);
}

TEST_F(RecipeFile, AliasesThatMakeManyValuesOfFewBytesAreErrors) {
  std::string bomb = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n";
  for (char name = 'b'; name < 'm'; ++name) {
    const std::string previous = {'*', static_cast<char>(name - 1), ','};
    bomb += std::string(1, name) + ": &" + name + " [";
    for (int i = 0; i < 9; ++i) bomb += previous;
    bomb += "]\n";
  }
  EXPECT_NE(error_of(bomb).find("recipe.yaml: more than 100000 values"), std::string::npos)
      << error_of(bomb);
  EXPECT_NE(error_of("include: &a [*a]").find("inside each other"), std::string::npos)
      << error_of("include: &a [*a]");
}

TEST_F(RecipeFile, EverySeedReadsBack) {
  EXPECT_EQ(read("calibration: {seed: 18446744073709551615}").calibration.seed, UINT64_MAX);
}

TEST(SchemeChoice, ARuleChangesOnlyWhatItNames) {
  SchemeChoice recipe;
  recipe.bits = 4;
  recipe.group_size = 64;
  recipe.symmetric = true;
  SchemeChoice rule;
  rule.bits = 8;
  const SchemeChoice both = rule.over(recipe);
  EXPECT_EQ(make_scheme(both, Dtype::kF16), integer_scheme(8, 64, true, Dtype::kF16));
  EXPECT_EQ(make_scheme(SchemeChoice{}.over(recipe), Dtype::kF16),
            integer_scheme(4, 64, true, Dtype::kF16));
}

TEST(SchemeChoice, DefaultsAreFourBitsInGroupsOf128Asymmetric) {
  EXPECT_EQ(make_scheme({}, Dtype::kBF16), integer_scheme(4, 128, false, Dtype::kBF16));
}

TEST(SchemeChoice, ContradictionsAndUnknownNamesAreErrors) {
  SchemeChoice choice;
  choice.name = "w4a16";
  choice.bits = 3;
  EXPECT_THROW(make_scheme(choice, Dtype::kF16), Error);
  choice = {};
  choice.group_size = 0;
  EXPECT_THROW(make_scheme(choice, Dtype::kF16), Error);
  choice = {};
  choice.name = "w4a61";
  try {
    make_scheme(choice, Dtype::kF16);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'w4a16'?"), std::string::npos);
  }
}

TEST(SchemeChoice, W4a8HasProgressiveGroups) {
  SchemeChoice choice;
  choice.name = "w4a8";
  Scheme expected = progressive_scheme(128);
  expected.activations = ActivationScheme{};
  EXPECT_EQ(make_scheme(choice, Dtype::kBF16), expected);
  choice.group_size = 64;
  EXPECT_EQ(make_scheme(choice, Dtype::kF16).blocking.columns, 64);
  choice.symmetric = true;
  EXPECT_THROW(make_scheme(choice, Dtype::kF16), Error);
  choice = {};
  choice.name = "w4a8";
  choice.bits = 8;
  EXPECT_THROW(make_scheme(choice, Dtype::kF16), Error);
  choice = {};
  choice.name = "w4a8";
  choice.double_quant = true;
  EXPECT_THROW(make_scheme(choice, Dtype::kF16), Error);
}

TEST(SchemeChoice, EveryNamedSchemeCanBeMade) {
  for (const NamedScheme& row : named_schemes()) {
    SchemeChoice choice;
    choice.name = row.name;
    if (mixture(row.name) != nullptr) {
      EXPECT_THROW(make_scheme(choice, Dtype::kF16), Error) << row.name;
    } else {
      EXPECT_NO_THROW(make_scheme(choice, Dtype::kF16)) << row.name;
    }
    EXPECT_FALSE(row.summary.empty());
    EXPECT_FALSE(row.format.empty());
  }
}

}  // namespace
}  // namespace nibble
