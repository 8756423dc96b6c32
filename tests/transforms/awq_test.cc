// Against tests/golden/transforms.json, made by a NumPy program in float64 that follows the paper,
// and against definitions.
#include "quantizers/transforms/awq.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "quantizers/transforms/scale_group.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "tests/transforms/groups.h"

namespace nibble {
namespace {

Scheme four_bits() { return integer_scheme(4, 64, false, Dtype::kF16); }

double score_of(const ScaleGroup& group, const Vector& s) {
  return hessian_score(group.layers, group.inputs.H, rounded_with_scales(group.layers, s));
}

TEST(Awq, EqualsThePapersSearchInFloat64) {
  const nlohmann::json& file = golden_transforms();
  ASSERT_NEAR(golden_group().layers[1].W.cast<double>().cwiseAbs().sum(),
              file["check"]["w"].get<double>(), 1e-6);
  ASSERT_EQ(file["awq"].size(), 7U);
  int off_by_a_code = 0;  // candidates with a scale or a code that is a tie but for the last bit
  for (const auto& row : file["awq"]) {
    ScaleGroup group = golden_group();
    for (size_t i = 0; i < group.layers.size(); ++i) {
      group.layers[i].scheme = golden_scheme(row, row["groups"][i].get<int64_t>());
    }
    if (row["tied"].get<bool>()) group.tied = file["tied"].get<std::vector<int32_t>>();
    const std::string name = describe(group.layers[0].scheme) + (group.tied.empty() ? "" : " tied");

    // The golden losses begin with r = 0 without duo scaling, where x^0 = 1: the identity.
    const std::vector<AwqCandidate> candidates = awq_candidates(group);
    const auto losses = row["losses"].get<std::vector<double>>();
    ASSERT_EQ(candidates.size(), losses.size());
    for (size_t i = 0; i < losses.size(); ++i) {
      const double score = score_of(group, candidates[i].s);
      EXPECT_NEAR(score, losses[i], 2e-3 * losses[i])
          << name << ", ratio " << candidates[i].ratio << (candidates[i].duo ? " duo" : "");
      off_by_a_code += std::fabs(score - losses[i]) > 1e-4 * losses[i] ? 1 : 0;
    }
    const AwqScales found = search_awq_scales(group);
    EXPECT_EQ(found.ratio, row["ratio"].get<double>()) << name;
    EXPECT_EQ(found.duo, row["duo"].get<bool>()) << name;
    EXPECT_NEAR(found.score_before, losses[0], 1e-4 * losses[0]) << name;
    const double least = *std::min_element(losses.begin(), losses.end());
    EXPECT_NEAR(found.score_after, least, 1e-4 * least) << name;
    for (int64_t k = 0; k < found.s.size(); ++k) {
      const double s = row["scales"][static_cast<size_t>(k)].get<double>();
      ASSERT_NEAR(found.s(k), s, 1e-5 * s) << name << ", input " << k;
    }
  }
  EXPECT_LE(off_by_a_code, 3);  // of 280
}

TEST(Awq, TiedInputsShareAScale) {
  ScaleGroup group = random_group({32}, 64, four_bits(), 1);
  for (int32_t k = 0; k < 64; ++k) group.tied.push_back(k % 16);
  for (const AwqCandidate& candidate : awq_candidates(group)) {
    for (int64_t k = 16; k < 64; ++k) ASSERT_EQ(candidate.s(k), candidate.s(k % 16));
  }
}

TEST(Awq, IsNeverWorseThanTheIdentityAndSaysHowGoodItIs) {
  for (const int bits : {2, 3, 4, 8}) {
    for (uint32_t seed = 1; seed <= 4; ++seed) {
      const Scheme scheme = integer_scheme(bits, seed % 2 == 0 ? 32 : kAll, seed > 2, Dtype::kF16);
      const ScaleGroup group = random_group({40, 24}, 96, scheme, seed);
      const AwqScales found = search_awq_scales(group);
      EXPECT_LE(found.score_after, found.score_before);
      EXPECT_EQ(found.score_after, score_of(group, found.s));
      EXPECT_EQ(found.score_before, score_of(group, Vector::Ones(96)));
      double exact = 0;
      const std::vector<Matrix> rounded = rounded_with_scales(group.layers, found.s);
      for (size_t i = 0; i < rounded.size(); ++i) {
        exact += exact_loss(group.layers[i].W, rounded[i], group.inputs.H);
      }
      EXPECT_NEAR(found.score_after, exact, 1e-4 * exact);
      EXPECT_NEAR(found.s.maxCoeff() * found.s.minCoeff(), 1., 1e-5);
    }
  }
}

// The sample decides which candidates are judged by all rows; what is returned was.
TEST(Awq, ManyRowsFindWhatAllCandidatesOnAllRowsWouldFind) {
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    const Scheme scheme = integer_scheme(3, 32, false, Dtype::kF16);
    const ScaleGroup group = random_group({1100, 130}, 64, scheme, seed);
    const AwqScales found = search_awq_scales(group);
    double least = std::numeric_limits<double>::infinity();
    for (const AwqCandidate& candidate : awq_candidates(group)) {
      least = std::min(least, score_of(group, candidate.s));
    }
    EXPECT_EQ(found.score_after, score_of(group, found.s));
    EXPECT_LE(found.score_after, 1.002 * least) << seed;
    EXPECT_LT(found.score_after, found.score_before);
  }
}

TEST(Awq, TiesGoToTheIdentity) {
  ScaleGroup group = random_group({16}, 64, four_bits(), 3);
  group.inputs.H.setZero();  // nothing is seen of any error
  AwqScales found = search_awq_scales(group);
  EXPECT_TRUE(found.s.isOnes());
  EXPECT_EQ(found.score_after, 0.);
  const auto constant = [](std::span<const Matrix>) { return 1.; };
  found = search_awq_scales(random_group({16}, 64, four_bits(), 3), constant);
  EXPECT_TRUE(found.s.isOnes());
  EXPECT_FALSE(found.duo);
}

TEST(Awq, ACallersScoreDecides) {
  const ScaleGroup group = random_group({16, 8}, 64, four_bits(), 4);
  const std::vector<Matrix> wanted = rounded_with_scales(group.layers, awq_candidates(group)[13].s);
  int64_t calls = 0;
  const auto distance = [&](std::span<const Matrix> weights) {
    ++calls;
    return static_cast<double>((weights[0] - wanted[0]).norm() + (weights[1] - wanted[1]).norm());
  };
  const AwqScales found = search_awq_scales(group, distance);
  EXPECT_EQ(found.ratio, 0.65);
  EXPECT_FALSE(found.duo);
  EXPECT_EQ(found.score_after, 0.);
  EXPECT_EQ(calls, 40);
}

TEST(Awq, InputsThatAreNeverThereAreLeftAlone) {
  ScaleGroup group = random_group({32}, 64, four_bits(), 5);
  group.inputs.mean_absolute(7) = 0.F;
  group.inputs.H.row(7).setZero();
  group.inputs.H.col(7).setZero();
  for (const AwqCandidate& candidate : awq_candidates(group)) {
    EXPECT_EQ(candidate.s(7), 1.F);
    EXPECT_TRUE(candidate.s.allFinite());
  }
  group.inputs.mean_absolute.setZero();
  group.inputs.H.setZero();
  EXPECT_TRUE(search_awq_scales(group).s.isOnes());
}

TEST(Awq, ColumnsOfZerosAndAnOutlierGiveFiniteScales) {
  ScaleGroup group = random_group({32}, 128, four_bits(), 6);
  group.layers[0].W.leftCols(64).setZero();  // a group of zeros in every row
  group.inputs.mean_absolute(100) *= 1e4F;
  group.inputs.H.row(100) *= 1e4F;
  group.inputs.H.col(100) *= 1e4F;
  for (const AwqCandidate& candidate : awq_candidates(group)) {
    EXPECT_TRUE(candidate.s.allFinite());
    EXPECT_GT(candidate.s.minCoeff(), 0.F);
  }
  const AwqScales found = search_awq_scales(group);
  EXPECT_LT(found.score_after, 0.5 * found.score_before);
}

TEST(Awq, NumbersThatAreNoneAreErrorsThatNameTheLayer) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  ScaleGroup group = random_group({32}, 64, four_bits(), 7);
  group.layers[0].name = "blocks.3.up";
  ScaleGroup broken = group;
  broken.layers[0].W(3, 5) = nan;
  const auto message_of = [](const ScaleGroup& problem) {
    try {
      search_awq_scales(problem);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(message_of(broken).find("blocks.3.up"), std::string::npos) << message_of(broken);
  broken = group;
  broken.inputs.H(2, 3) = nan;
  EXPECT_NE(message_of(broken).find("blocks.3.up"), std::string::npos) << message_of(broken);
}

TEST(Awq, SameScalesWithOneThreadAndWithTwo) {
  const ScaleGroup group = random_group({700, 100}, 160, four_bits(), 8);
  const int threads = omp_get_max_threads();
  AwqScales found[2];
  for (int run = 0; run < 2; ++run) {
    omp_set_num_threads(run + 1);
    found[run] = search_awq_scales(group);
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(found[0].s, found[1].s);
  EXPECT_EQ(found[0].score_before, found[1].score_before);
  EXPECT_EQ(found[0].score_after, found[1].score_after);
}

}  // namespace
}  // namespace nibble
