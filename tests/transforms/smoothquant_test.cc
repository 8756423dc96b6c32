// Against tests/golden/transforms.json, made by a NumPy program in float64 that follows the paper,
// and against layers that are really run with 8-bit activations.
#include "quantizers/transforms/smoothquant.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/solver.h"
#include "quantizers/transforms/scale_group.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "tests/transforms/groups.h"

namespace nibble {
namespace {

Scheme eight_bits(bool dynamic) {
  Scheme scheme = integer_scheme(8, kAll, true, Dtype::kF16);
  scheme.activations = ActivationScheme{.dynamic = dynamic, .per_token = dynamic};
  return scheme;
}

TEST(SmoothQuant, ScalesEqualThePapersFormula) {
  const nlohmann::json& file = golden_transforms();
  ASSERT_EQ(file["smoothquant"].size(), 3U);
  for (const auto& row : file["smoothquant"]) {
    ScaleGroup group = golden_group();
    if (row["tied"].get<bool>()) group.tied = file["tied"].get<std::vector<int32_t>>();
    const Vector s = smoothquant_scales(group, row["alpha"].get<double>());
    for (int64_t k = 0; k < s.size(); ++k) {
      const double expected = row["scales"][static_cast<size_t>(k)].get<double>();
      // Two powers and a quotient in float.
      ASSERT_NEAR(s(k), expected, 1e-6 * expected) << row["alpha"] << ", input " << k;
    }
  }
}

TEST(SmoothQuant, TheSearchedAlphaIsThatOfTheReference) {
  for (const auto& row : golden_transforms()["alpha"]) {
    ScaleGroup group = golden_group();
    const bool dynamic = row["dynamic"].get<bool>();
    for (ScaledLayer& layer : group.layers) layer.scheme = eight_bits(dynamic);
    const SmoothQuantScales found = find_smoothquant_scales(group, {});
    EXPECT_FALSE(found.identity);
    EXPECT_EQ(found.alpha, row["alpha"].get<double>()) << dynamic;
    // An integral over 128 cells instead of 20000 points.
    const double allowed = dynamic ? 2e-3 : 1e-4;
    const double before = row["before"].get<double>();
    const double after = row["after"].get<double>();
    EXPECT_NEAR(found.score_before, before, allowed * before) << dynamic;
    EXPECT_NEAR(found.score_after, after, allowed * after) << dynamic;
  }
}

TEST(SmoothQuant, TheLargestOfGaussiansIsKnown) {
  const auto square_of = [](const Vector& variance, float largest) {
    return expected_largest_squares(variance, Vector::Constant(variance.size(), largest));
  };
  EXPECT_NEAR(square_of(Vector::Ones(1), 1e6F).sum(), 1., 2e-3);
  // Two of variance 1: E max(a^2, b^2) = 1 + 2 / pi, half of it each.
  const Vector two = square_of(Vector::Ones(2), 1e6F);
  EXPECT_NEAR(two.sum(), 1. + 2. / 3.14159265, 2e-3);
  EXPECT_NEAR(two(0), two(1), 1e-6);
  // One that is a thousand times wider decides alone.
  Vector variance = Vector::Ones(64);
  variance(3) = 1e6F;
  const Vector wide = square_of(variance, 1e9F);
  EXPECT_NEAR(wide.sum(), 1e6, 3e3);
  EXPECT_GT(wide(3), 0.999F * wide.sum());
  // None is larger than what was seen.
  EXPECT_NEAR(square_of(Vector::Constant(64, 100.F), 0.25F).sum(), 0.25, 3e-3);
  EXPECT_TRUE(square_of(Vector::Zero(4), 0.F).isZero(0.F));
  // As measured: variances 1, .5, 1, .5, .., over 4000 draws.
  Matrix x = random_matrix(4000, 256, 1);
  Vector measured = Vector::Zero(256);
  variance.resize(256);
  for (int64_t k = 0; k < 256; ++k) {
    variance(k) = k % 2 == 0 ? 1.F : 0.5F;
    x.col(k) *= std::sqrt(variance(k));
  }
  for (int64_t t = 0; t < x.rows(); ++t) {
    int64_t k = 0;
    const float largest = x.row(t).cwiseAbs().maxCoeff(&k);
    measured(k) += largest * largest / 4000.F;
  }
  const Vector expected = square_of(variance, 1e6F);
  EXPECT_NEAR(expected.sum(), measured.sum(), 0.02F * measured.sum());
  float odd[2] = {0.F, 0.F};
  for (int64_t k = 1; k < 256; k += 2) {
    odd[0] += expected(k);
    odd[1] += measured(k);
  }
  EXPECT_NEAR(odd[0] / expected.sum(), odd[1] / measured.sum(), 0.02);
}

// What find_smoothquant_scales expects is what happens.
TEST(SmoothQuant, TheExpectedErrorIsThatOfLayersWithQuantizedActivations) {
  for (const bool outlier : {false, true}) {
    Matrix X = random_matrix(1000, 96, 3);
    if (outlier) X.col(11) *= 40.F;
    ScaleGroup group = random_group({64}, 96, eight_bits(true), 4);
    group.inputs = statistics_of(X);
    const Matrix& W = group.layers[0].W;
    for (const std::optional<double> alpha : {std::optional(0.5), std::optional<double>()}) {
      const SmoothQuantScales found = find_smoothquant_scales(group, alpha);
      const auto error_of = [&](const Vector& s) {
        Scheme scheme = eight_bits(true);
        scheme.activations.reset();
        const Matrix scaled = W * s.asDiagonal();
        QuantizedLinear q = solve_rtn({.W = scaled, .scheme = scheme}).q;
        q.scheme.activations = group.layers[0].scheme.activations;
        const Matrix x = X * s.cwiseInverse().asDiagonal();
        const Eigen::MatrixXd error = quantized_matmul_reference(x, q).cast<double>() -
                                      X.cast<double>() * W.cast<double>().transpose();
        return error.squaredNorm() / static_cast<double>(X.rows());
      };
      EXPECT_NEAR(found.score_before, error_of(Vector::Ones(96)), 0.1 * found.score_before);
      EXPECT_NEAR(found.score_after, error_of(found.s), 0.1 * found.score_after);
      if (outlier) {
        EXPECT_LT(error_of(found.s), 0.1 * error_of(Vector::Ones(96)));
      }
    }
  }
}

TEST(SmoothQuant, IsNeverWorseThanNoScalesWhereAlphaIsSearched) {
  for (uint32_t seed = 1; seed <= 4; ++seed) {
    const ScaleGroup group = random_group({40, 24}, 64, eight_bits(seed % 2 == 0), seed);
    const SmoothQuantScales found = find_smoothquant_scales(group, {});
    EXPECT_LE(found.score_after, found.score_before);
    EXPECT_EQ(found.score_after, find_smoothquant_scales(group, found.alpha).score_after);
  }
  ScaleGroup silent = random_group({8}, 32, eight_bits(true), 1);
  silent.inputs.H.setZero();
  silent.inputs.largest.setZero();
  const SmoothQuantScales found = find_smoothquant_scales(silent, {});
  EXPECT_TRUE(found.identity);
  EXPECT_TRUE(found.s.isOnes());
}

TEST(SmoothQuant, TiedInputsShareAScale) {
  ScaleGroup group = random_group({32}, 64, eight_bits(true), 5);
  for (int32_t k = 0; k < 64; ++k) group.tied.push_back(k % 16);
  const Vector s = smoothquant_scales(group, 0.5);
  for (int64_t k = 16; k < 64; ++k) ASSERT_EQ(s(k), s(k % 16));
}

TEST(SmoothQuant, DeadInputsZeroColumnsAndOutliersGiveFiniteScales) {
  ScaleGroup group = random_group({32}, 64, eight_bits(true), 6);
  group.inputs.largest(3) = 0.F;
  group.inputs.largest(4) = 1e4F;
  group.layers[0].W.col(4).setZero();
  group.layers[0].W.col(5).setZero();
  group.inputs.largest(6) = 1e-30F;
  for (const double alpha : {0., 0.5, 0.8, 1.}) {
    const Vector s = smoothquant_scales(group, alpha);
    EXPECT_EQ(s(3), 1.F);
    EXPECT_TRUE(s.allFinite());
    EXPECT_GE(s.minCoeff(), 1e-5F);
  }
  group.inputs.H(1, 2) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(find_smoothquant_scales(group, 0.5), Error);
}

TEST(SmoothQuant, SameScalesWithOneThreadAndWithTwo) {
  const ScaleGroup group = random_group({300, 100}, 160, eight_bits(true), 7);
  const int threads = omp_get_max_threads();
  SmoothQuantScales found[2];
  for (int run = 0; run < 2; ++run) {
    omp_set_num_threads(run + 1);
    found[run] = find_smoothquant_scales(group, {});
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(found[0].s, found[1].s);
  EXPECT_EQ(found[0].score_after, found[1].score_after);
}

}  // namespace
}  // namespace nibble
