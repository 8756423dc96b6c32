// Every architecture against transformers in fp32, with configurations of transformers 4 and 5
// (tools/golden/tiny_models.py).
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "calibration/dataset.h"
#include "formats/checkpoint.h"
#include "formats/json.h"
#include "src/model/model.h"
#include "src/tensor/matrix.h"
#include "tests/golden/golden.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

struct Case {
  std::string model;
  std::string config;  // "config.json" (transformers 5) or "config.v4.json"
};

std::vector<Case> cases() {
  std::vector<Case> all;
  const Json results = golden_results("tiny_models");
  for (const auto& item : results.items()) {
    all.push_back({item.key(), "config.json"});
    all.push_back({item.key(), "config.v4.json"});
  }
  return all;
}

class TinyModel : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const fs::path source = own_test_data() / "tiny" / GetParam().model;
    fs::copy_file(source / "model.safetensors", folder_.path() / "model.safetensors");
    fs::copy_file(source / GetParam().config, folder_.path() / "config.json");
    model_ = std::make_unique<Model>(
        std::make_shared<const Checkpoint>(Checkpoint::open(folder_.path())));
    expected_ = golden_results("tiny_models")[GetParam().model];
    batch_ = {.windows = expected_["windows"].get<int64_t>(),
              .window = expected_["seq_len"].get<int64_t>()};
    ids_ = read_dataset(own_test_data() / "tiny" / "ids.npy", {}).ids;
    ASSERT_EQ(std::ssize(ids_), batch_.windows * batch_.window);
  }

  // The last block's output, all windows [T, hidden_size].
  Matrix run() const {
    Matrix x = model_->embed(ids_, batch_);
    for (int64_t i = 0; i < model_->config().layers; ++i) {
      model_->forward(model_->load_block(i), batch_, x);
    }
    return x;
  }

  TemporaryFolder folder_;
  std::unique_ptr<Model> model_;
  Json expected_;
  Batch batch_;
  std::vector<int32_t> ids_;
};

TEST_P(TinyModel, LosesAsMuchAsInTransformers) {
  std::vector<int32_t> targets(ids_.begin() + 1, ids_.end());
  targets.push_back(-1);
  for (int64_t w = 1; w <= batch_.windows; ++w) {
    targets[static_cast<size_t>(w * batch_.window - 1)] = -1;
  }
  const std::vector<double> losses = model_->cross_entropy(model_->load_head(), run(), targets);
  const double nll = std::accumulate(losses.begin(), losses.end(), 0.0) /
                     static_cast<double>(batch_.windows * (batch_.window - 1));
  const double expected = expected_["nll"].get<double>();
  EXPECT_NEAR(nll, expected, 1e-5 * expected);
}

TEST_P(TinyModel, ItsLogitsAreThoseOfTransformers) {
  const Matrix x = run();
  const Model::Head head = model_->load_head();
  // Two fp32 evaluations of some hundred additions each, on logits of a few units.
  const double tolerance = 2e-5 * expected_["logit_std"].get<double>();
  for (const Json& place : expected_["logits"]) {
    const int64_t row =
        place["window"].get<int64_t>() * batch_.window + place["position"].get<int64_t>();
    const Matrix logits = model_->logits(head, x.middleRows(row, 1));
    Matrix::Index best = 0;
    logits.row(0).maxCoeff(&best);
    EXPECT_EQ(best, place["argmax"].get<int64_t>()) << "row " << row;
    for (size_t i = 0; i < place["first"].size(); ++i) {
      EXPECT_NEAR(logits(0, static_cast<int64_t>(i)), place["first"][i].get<double>(), tolerance)
          << "row " << row << ", logit " << i;
    }
  }
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.model + (info.param.config == "config.json" ? "_v5" : "_v4");
  for (char& c : name) {
    if (c == '-') c = '_';
  }
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, TinyModel, testing::ValuesIn(cases()), name_of);

TEST(TinyModels, EveryFolderHasAReference) {
  for (const auto& entry : fs::directory_iterator(own_test_data() / "tiny")) {
    if (!entry.is_directory()) continue;
    EXPECT_TRUE(golden_results("tiny_models").contains(entry.path().filename().string()))
        << entry.path();
  }
}

}  // namespace
}  // namespace nibble
