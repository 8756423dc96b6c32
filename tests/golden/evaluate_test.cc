// Perplexity of real models against transformers in fp32 (tools/golden/evaluate.py). The whole
// texts, which take minutes, are compared by tools/golden/compare_evaluate.py.
#include "src/pipeline/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "formats/checkpoint.h"
#include "formats/json.h"
#include "kernels/matmul.h"
#include "tests/golden/golden.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// fp32 sums in another order: 1e-5 of the mean is what the project promises (seen: below 1e-6 in
// float, below 6e-6 in fixed point).
constexpr double kTolerance = 1e-5;
constexpr int64_t kSeqLen = 512;

void expect_same(const std::string& key, const fs::path& model, const fs::path& dataset,
                 int64_t windows, Protocol protocol) {
  const Json expected = golden_results("evaluate")[key][std::string(protocol_name(protocol))];
  EvaluateOptions options;
  options.dataset = dataset;
  options.seq_len = kSeqLen;
  options.protocol = protocol;
  options.limit = windows * kSeqLen;
  const auto checkpoint = std::make_shared<const Checkpoint>(Checkpoint::open(model));
  for (const Products products : {Products::kFloat, Products::kFixed}) {
    options.products = products;
    const EvaluateResult result = evaluate(checkpoint, nullptr, options, {});
    const std::string where = key + ", " + std::string(products_name(products));
    EXPECT_EQ(result.windows, expected["windows"].get<int64_t>()) << where;
    EXPECT_EQ(result.tokens, expected["tokens"].get<int64_t>()) << where;
    const double nll = expected["nll"].get<double>();
    EXPECT_NEAR(result.nll, nll, kTolerance * nll) << where;
    EXPECT_NEAR(result.perplexity, std::exp(nll), kTolerance * nll * std::exp(nll)) << where;
  }
}

void expect_same_in_data(const std::string& model, const std::string& dataset, int64_t windows) {
  const std::string key = model + " " + dataset + " " + std::to_string(windows);
  expect_same(key, test_data() / model, test_data() / dataset, windows, Protocol::kHf);
}

constexpr const char* kSample = "tests/data/books.eval.sample.txt";

TEST(GoldenEvaluate, BookwormOnItsSampleEqualsTransformers) {
  expect_same(std::string("models/bookworm-5m ") + kSample + " all",
              own_test_data() / "bookworm-5m", own_test_data() / "books.eval.sample.txt", 0,
              Protocol::kHf);
}

TEST(GoldenEvaluate, TheLlamaCppProtocolScoresTheSecondHalves) {
  expect_same(std::string("models/bookworm-5m ") + kSample + " all",
              own_test_data() / "bookworm-5m", own_test_data() / "books.eval.sample.txt", 0,
              Protocol::kLlamaCpp);
}

TEST(GoldenEvaluate, BookwormOnUnseenBooksEqualsTransformers) {
  NIBBLE_NEEDS_TEST_DATA();
  expect_same_in_data("models/bookworm-5m", "text/books.eval.txt", 16);
}

TEST(GoldenEvaluate, TinystoriesInBothLayoutsEqualsTransformers) {
  NIBBLE_NEEDS_TEST_DATA();
  for (const char* model : {"models/tinystories-656k", "models/tinystories-656k-f32-tied"}) {
    expect_same_in_data(model, "text/tinystories.eval.jsonl", 64);
    expect_same_in_data(model, "text/wikitext2.test.raw", 64);
  }
}

}  // namespace
}  // namespace nibble
