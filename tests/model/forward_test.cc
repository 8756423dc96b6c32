// What must hold of any forward pass; agreement with transformers is tests/golden/.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "src/model/model.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "tests/model/editable_checkpoint.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

std::shared_ptr<const Checkpoint> tiny(const std::string& name) {
  return std::make_shared<const Checkpoint>(Checkpoint::open(own_test_data() / "tiny" / name));
}

const std::vector<std::string> kModels = {"llama-llama3-rope", "llama-biases", "mistral",
                                          "qwen2-tied",        "qwen3",        "gpt2"};

std::vector<int32_t> some_ids(int64_t count) {
  std::vector<int32_t> ids(count);
  for (int64_t i = 0; i < count; ++i) ids[i] = static_cast<int32_t>(i * i * 7 % 288);
  return ids;
}

Matrix run(const Model& model, const std::vector<int32_t>& ids, const Batch& batch) {
  Matrix x = model.embed(ids, batch);
  for (int64_t i = 0; i < model.config().layers; ++i) {
    model.forward(model.load_block(i), batch, x);
  }
  return x;
}

class Forward : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Models, Forward, testing::ValuesIn(kModels));

TEST_P(Forward, TheThreadsDoNotMatter) {
  const Model model(tiny(GetParam()));
  const std::vector<int32_t> ids = some_ids(5 * 100);  // tiles of 128 rows cross the windows
  const Batch batch{.windows = 5, .window = 100};
  const Matrix expected = run(model, ids, batch);
  std::vector<int32_t> targets(ids);
  const std::vector<double> losses = model.cross_entropy(model.load_head(), expected, targets);
  const int before = omp_get_max_threads();
  for (const int threads : {1, 2, 3}) {
    omp_set_num_threads(threads);
    EXPECT_EQ(run(model, ids, batch), expected) << threads;
    EXPECT_EQ(model.cross_entropy(model.load_head(), expected, targets), losses) << threads;
  }
  omp_set_num_threads(before);
}

TEST_P(Forward, AWindowDoesNotDependOnTheOthers) {
  const Model model(tiny(GetParam()));
  const std::vector<int32_t> ids = some_ids(3 * 90);
  const Matrix all = run(model, ids, {.windows = 3, .window = 90});
  for (int64_t w = 0; w < 3; ++w) {
    const std::vector<int32_t> window(ids.begin() + w * 90, ids.begin() + (w + 1) * 90);
    EXPECT_EQ(run(model, window, {.windows = 1, .window = 90}), all.middleRows(w * 90, 90)) << w;
  }
}

TEST_P(Forward, LaterTokensDoNotChangeEarlierOnes) {
  const Model model(tiny(GetParam()));
  std::vector<int32_t> ids = some_ids(120);
  const Batch batch{.windows = 1, .window = 120};
  const Matrix before = run(model, ids, batch);
  ids[80] = (ids[80] + 1) % 288;
  const Matrix after = run(model, ids, batch);
  EXPECT_EQ(after.topRows(80), before.topRows(80));
  EXPECT_NE(after.row(80), before.row(80));
}

// Prompt of 50, then tokens in steps of 1, 2 and 7: the same as all at once, but for the order of
// the sums in attention. x reaches some tens in these models.
TEST_P(Forward, ACacheContinuesWhatWasRead) {
  const Model model(tiny(GetParam()));
  const std::vector<int32_t> ids = some_ids(70);
  const Matrix expected = run(model, ids, {.windows = 1, .window = 70});
  std::vector<Block> blocks;
  std::vector<KeyValueCache> caches(model.config().layers);
  for (int64_t i = 0; i < model.config().layers; ++i) {
    blocks.push_back(model.load_block(i));
    caches[i].keys.resize(70, model.config().key_value_heads * model.config().head_size);
    caches[i].values.resize(caches[i].keys.rows(), caches[i].keys.cols());
  }
  int64_t done = 0;
  for (const int64_t step : {50, 1, 1, 2, 7, 1, 7, 1}) {
    const std::vector<int32_t> next(ids.begin() + done, ids.begin() + done + step);
    Matrix x = model.embed(next, {.windows = 1, .window = step}, done);
    for (size_t i = 0; i < blocks.size(); ++i) model.forward(blocks[i], caches[i], x);
    const Matrix reference = expected.middleRows(done, step);
    EXPECT_LE((x - reference).cwiseAbs().maxCoeff(), 1e-5f * reference.cwiseAbs().maxCoeff())
        << "after " << done;
    done += step;
  }
  EXPECT_EQ(done, 70);
  Matrix x = model.embed(std::vector<int32_t>{1}, {.windows = 1, .window = 1}, 70);
  EXPECT_THROW(model.forward(blocks[0], caches[0], x), Error);
}

TEST_P(Forward, CrossEntropyIsThatOfTheLogits) {
  const Model model(tiny(GetParam()));
  const std::vector<int32_t> ids = some_ids(40);
  const Matrix x = run(model, ids, {.windows = 1, .window = 40});
  const Model::Head head = model.load_head();
  const Matrix logits = model.logits(head, x);
  const std::vector<double> losses = model.cross_entropy(head, x, ids);
  for (int64_t t = 0; t < 40; ++t) {
    const Eigen::RowVectorXd row = logits.row(t).cast<double>();
    const double expected =
        row.maxCoeff() + std::log((row.array() - row.maxCoeff()).exp().sum()) - row[ids[t]];
    EXPECT_NEAR(losses[t], expected, 1e-6 * (1 + std::abs(row.maxCoeff()))) << t;
  }
}

TEST(ForwardLlama, TiedEmbeddingsUnderEitherNameGiveTheSameBits) {
  EditableCheckpoint source("llama-tied");
  const auto losses = [&] {
    const Model model(std::make_shared<const Checkpoint>(source.write()));
    const std::vector<int32_t> ids = some_ids(60);
    return model.cross_entropy(model.load_head(), run(model, ids, {.windows = 1, .window = 60}),
                               ids);
  };
  const std::vector<double> expected = losses();
  source.rename("model.embed_tokens.weight", "lm_head.weight");
  EXPECT_EQ(losses(), expected);
}

TEST(Embed, RefusesIdsAndPositionsThatTheModelHasNot) {
  const Model model(tiny("gpt2"));  // 288 ids, 128 positions
  const auto message = [&](std::vector<int32_t> ids, int64_t first) -> std::string {
    try {
      model.embed(ids, {.windows = 1, .window = std::ssize(ids)}, first);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(message({287, 0}, 126), "no error");
  EXPECT_THAT(message({5, 288}, 0),
              testing::AllOf(testing::HasSubstr("token 1"), testing::HasSubstr("288")));
  EXPECT_THAT(message({-1}, 0), testing::HasSubstr("-1"));
  EXPECT_THAT(message({1, 2}, 127), testing::HasSubstr("128"));
}

}  // namespace
}  // namespace nibble
