// Scales against NumPy's (tests/golden/transforms.json, tools/golden/transforms.py), and what must
// hold for any.
#include "quantizers/transforms/transforms.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "calibration/stats.h"
#include "quantizers/transforms/awq.h"
#include "quantizers/transforms/awq_clip.h"
#include "quantizers/transforms/scale_group.h"
#include "quantizers/transforms/smoothquant.h"
#include "src/quantized/scheme.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using nlohmann::json;

constexpr int64_t kN = 24;
constexpr int64_t kK = 64;
constexpr int64_t kGroup = 32;
constexpr int64_t kTokens = 200;

json golden() {
  return json::parse(read_file(own_test_data().parent_path() / "golden" / "transforms.json"));
}

std::vector<float> sequence(int64_t count, uint32_t seed) {
  uint32_t state = seed;
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    values.push_back(static_cast<float>(static_cast<double>(state >> 8U) / 8388608. - 1));
  }
  return values;
}

// As the generator makes them.
Matrix weights(uint32_t seed) { return ConstMatrixMap(sequence(kN * kK, seed).data(), kN, kK); }

Matrix inputs(uint32_t seed) {
  Matrix X = ConstMatrixMap(sequence(kTokens * kK, seed + 1).data(), kTokens, kK);
  const std::vector<float> powers = sequence(kK, seed + 2);
  for (int64_t k = 0; k < kK; ++k) {
    X.col(k) *= std::exp2(std::nearbyint(powers[static_cast<size_t>(k)] * 4));
  }
  return X;
}

ScaleGroup group_of(uint32_t seed, const Scheme& scheme) {
  InputSums sums(kK);
  sums.add(inputs(seed), "layer");
  ScaleGroup group;
  group.layers.push_back({.name = "layer", .W = weights(seed), .scheme = scheme});
  group.inputs = std::move(sums).finish();
  return group;
}

TEST(Awq, FindsWhatNumpyFinds) {
  for (const json& row : golden()["awq"]) {
    const Scheme scheme =
        integer_scheme(row["bits"].get<int>(), kGroup, row["symmetric"].get<bool>(), Dtype::kF16);
    const ScaleGroup group = group_of(row["seed"].get<uint32_t>(), scheme);
    const AwqScales found = search_awq_scales(group);
    const std::string name = row.dump().substr(0, 60);
    // Float decides between neighbours whose losses agree to their last digits: the loss counts.
    EXPECT_NEAR(found.score_before, row["score_before"].get<double>(), 1e-4 * found.score_before)
        << name;
    EXPECT_NEAR(found.score_after, row["score_after"].get<double>(), 1e-4 * found.score_after)
        << name;
    EXPECT_EQ(found.ratio, row["ratio"].get<double>()) << name;
    EXPECT_EQ(found.duo, row["duo"].get<bool>()) << name;
    for (int64_t k = 0; k < kK; ++k) {
      EXPECT_NEAR(found.s(k), row["scales"][static_cast<size_t>(k)].get<float>(),
                  1e-5 * found.s(k));
    }
  }
}

TEST(AwqClip, KeepsWhatNumpyKeeps) {
  for (const json& row : golden()["clip"]) {
    const auto seed = row["seed"].get<uint32_t>();
    const Scheme scheme = integer_scheme(row["bits"].get<int>(), kGroup, false, Dtype::kF16);
    const Matrix W = weights(seed);
    const ClippedWeights clipped =
        clip_weights(W, group_of(seed, scheme).inputs.H, scheme, "layer");
    int64_t groups = 0;
    for (int64_t n = 0; n < kN; ++n) {
      for (int64_t g = 0; g < kK / kGroup; ++g) {
        const float kept = row["kept"][static_cast<size_t>(n)][static_cast<size_t>(g)].get<float>();
        const auto before = W.row(n).segment(g * kGroup, kGroup);
        const auto after = clipped.W.row(n).segment(g * kGroup, kGroup);
        EXPECT_EQ(after.cwiseAbs().maxCoeff(), kept * before.cwiseAbs().maxCoeff());
        groups += kept < 1.F ? 1 : 0;
      }
    }
    EXPECT_EQ(clipped.clipped, groups);
    EXPECT_GT(groups, 0);
  }
}

TEST(SmoothQuant, ScalesAreThoseOfThePaper) {
  for (const json& row : golden()["smoothquant"]) {
    const ScaleGroup group =
        group_of(row["seed"].get<uint32_t>(), integer_scheme(8, kAll, true, Dtype::kF16));
    const Vector s = smoothquant_scales(group, row["alpha"].get<double>());
    for (int64_t k = 0; k < kK; ++k) {
      EXPECT_NEAR(s(k), row["scales"][static_cast<size_t>(k)].get<float>(), 1e-5 * s(k));
    }
  }
}

TEST(SmoothQuant, TheSearchNeverLosesToDoingNothing) {
  for (uint32_t seed = 1; seed < 6; ++seed) {
    const ScaleGroup group = group_of(seed, integer_scheme(8, kAll, true, Dtype::kF16));
    const SmoothQuantScales found = find_smoothquant_scales(group, std::nullopt);
    EXPECT_LE(found.score_after, found.score_before);
    EXPECT_LT(found.score_after, 0.5 * found.score_before) << "inputs differ by 2^8";
  }
}

TEST(Transforms, EveryRowGivesFiniteScalesTheSameForAnyNumberOfThreads) {
  std::set<std::string_view> names;
  for (const Transform& row : transforms()) {
    EXPECT_TRUE(names.insert(row.name).second);
    EXPECT_FALSE(row.summary.empty());
    EXPECT_FALSE(row.source.empty());
    const ScaleGroup group = group_of(7, integer_scheme(4, kGroup, false, Dtype::kF16));
    const FoundScales found = row.find(group, {}, {});
    EXPECT_TRUE(found.s.allFinite());
    EXPECT_GT(found.s.minCoeff(), 0.F);
    const int before = omp_get_max_threads();
    omp_set_num_threads(1);
    EXPECT_EQ(row.find(group, {}, {}).s, found.s) << row.name;
    omp_set_num_threads(before);
  }
  EXPECT_THROW(transform("awk"), Error);
}

TEST(Transforms, DeadInputsAndZeroWeightsAndAnOutlierKeepScalesUsable) {
  for (const Transform& row : transforms()) {
    ScaleGroup group = group_of(8, integer_scheme(4, kGroup, false, Dtype::kF16));
    Matrix X = inputs(8);
    X.col(3).setZero();
    X.col(5) *= 1e4F;
    group.layers[0].W.col(9).setZero();
    InputSums sums(kK);
    sums.add(X, "layer");
    group.inputs = std::move(sums).finish();
    const FoundScales found = row.find(group, {}, {});
    EXPECT_TRUE(found.s.allFinite()) << row.name;
    EXPECT_GT(found.s.minCoeff(), 0.F) << row.name;
    EXPECT_EQ(found.s(3), 1.F) << row.name << ": an input that is always zero";
  }
}

TEST(Transforms, TiedInputsShareTheirScale) {
  for (const Transform& row : transforms()) {
    ScaleGroup group = group_of(9, integer_scheme(4, kGroup, false, Dtype::kF16));
    for (int32_t k = 0; k < kK; ++k) group.tied.push_back(k % 16);
    const FoundScales found = row.find(group, {}, {});
    for (int64_t k = 16; k < kK; ++k) EXPECT_EQ(found.s(k), found.s(k % 16)) << row.name;
    EXPECT_NE(found.s(0), found.s(1)) << row.name;
  }
}

TEST(Awq, AScoreOfTheCallersOwnDecides) {
  const ScaleGroup group = group_of(3, integer_scheme(3, kGroup, false, Dtype::kF16));
  int calls = 0;
  const AwqScales found = search_awq_scales(group, [&](std::span<const Matrix> candidates) {
    EXPECT_EQ(candidates.size(), 1U);
    return ++calls == 25 ? 0. : 1.;
  });
  EXPECT_EQ(calls, 40);
  EXPECT_TRUE(found.duo);
  EXPECT_EQ(found.ratio, 0.2);
}

}  // namespace
}  // namespace nibble
