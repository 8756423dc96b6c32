// A norm that took the scales, followed by a layer that was multiplied by them, computes what it
// did.
#include "quantizers/transforms/fold_scales.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/norm.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "tests/transforms/groups.h"

namespace nibble {
namespace {

constexpr double kEpsilon = std::numeric_limits<float>::epsilon();

Vector as_stored(const Vector& values, Dtype type) {
  return values.unaryExpr([type](float value) { return round_to(value, type); });
}

// Log-normal around 1.
Vector random_scales(int64_t K, uint32_t seed) {
  return (1.5F * random_matrix(1, K, seed).row(0).transpose().array()).exp().matrix();
}

// y [T, N] in double, and what each sum's terms add up to in magnitude.
struct Output {
  Eigen::MatrixXd y;
  Eigen::MatrixXd magnitude;
};

Output layer(const Matrix& x, const Matrix& W) {
  const Eigen::MatrixXd X = x.cast<double>();
  const Eigen::MatrixXd weights = W.cast<double>().transpose();
  return {X * weights, X.cwiseAbs() * weights.cwiseAbs()};
}

TEST(FoldScales, RmsNormAndLayerComputeTheSameWhateverTheStoredType) {
  const int64_t K = 96;
  const Matrix x = random_matrix(20, K, 1);
  const Matrix W = random_matrix(30, K, 2);
  for (const Dtype type : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
    const Vector weight = as_stored(random_scales(K, 3), type);
    const FoldedNorm folded = fold_into_norm(weight, {}, random_scales(K, 4), type);
    EXPECT_EQ(folded.weight, as_stored(folded.weight, type));
    EXPECT_EQ(folded.limited, 0);
    EXPECT_EQ(folded.bias.size(), 0);
    Matrix before(x.rows(), K);
    Matrix after(x.rows(), K);
    rms_norm(x, weight, 1e-5F, before);
    rms_norm(x, folded.weight, 1e-5F, after);
    const Matrix W_scaled = W * folded.scales.asDiagonal();
    const Output expected = layer(before, W);
    const Output got = layer(after, W_scaled);
    // Roundings of a term: the scale, W s, and one each of the two norms' outputs.
    const double worst =
        ((got.y - expected.y).array().abs() / (4. * kEpsilon * expected.magnitude.array()))
            .maxCoeff();
    EXPECT_LE(worst, 1.) << dtype_name(type);
  }
}

TEST(FoldScales, LayerNormDiffersByTheRoundingOfItsBiasAlone) {
  const int64_t K = 96;
  const Matrix x = random_matrix(20, K, 5);
  const Matrix W = random_matrix(30, K, 6);
  for (const Dtype type : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
    const Vector weight = as_stored(random_scales(K, 7), type);
    const Vector bias = as_stored(random_matrix(1, K, 8).row(0).transpose(), type);
    const FoldedNorm folded = fold_into_norm(weight, bias, random_scales(K, 9), type);
    EXPECT_EQ(folded.bias, as_stored(folded.bias, type));
    const double half_ulp = type == Dtype::kF16 ? 0x1p-11 : type == Dtype::kBF16 ? 0x1p-8 : 0x1p-24;
    const double largest = static_cast<double>(bias.cwiseAbs().maxCoeff());
    EXPECT_LE(folded.bias_error, (half_ulp + 2. * kEpsilon) * largest);
    if (type != Dtype::kF32) {
      EXPECT_GT(folded.bias_error, 0.1 * half_ulp * largest);
    }
    Matrix before(x.rows(), K);
    Matrix after(x.rows(), K);
    layer_norm(x, weight, bias, 1e-5F, before);
    layer_norm(x, folded.weight, folded.bias, 1e-5F, after);
    const Output expected = layer(before, W);
    const Output got = layer(after, W * folded.scales.asDiagonal());
    const Eigen::VectorXd bias_part =
        W.cast<double>().cwiseAbs() * (half_ulp * bias.cast<double>().cwiseAbs());
    // The sums in a norm's output may cancel: its rounding is that of its larger part.
    const double largest_output = static_cast<double>(before.cwiseAbs().maxCoeff()) + largest;
    const Eigen::VectorXd float_part =
        8. * kEpsilon * largest_output * W.cast<double>().cwiseAbs().rowwise().sum();
    for (int64_t t = 0; t < x.rows(); ++t) {
      for (int64_t n = 0; n < W.rows(); ++n) {
        ASSERT_NEAR(got.y(t, n), expected.y(t, n), bias_part(n) + float_part(n))
            << dtype_name(type);
      }
    }
  }
}

TEST(FoldScales, TheScalesAreWhatRoundingTheWeightMadeThem) {
  for (const Dtype type : {Dtype::kF16, Dtype::kBF16}) {
    const Vector weight = as_stored(random_scales(50, 10), type);
    const Vector wanted = random_scales(50, 11);
    const FoldedNorm folded = fold_into_norm(weight, {}, wanted, type);
    const float relative = type == Dtype::kF16 ? 0x1p-11F : 0x1p-8F;
    for (int64_t k = 0; k < 50; ++k) {
      EXPECT_EQ(folded.weight(k), round_to(weight(k) / wanted(k), type));
      EXPECT_EQ(folded.scales(k), weight(k) / folded.weight(k));
      EXPECT_NEAR(folded.scales(k), wanted(k), 1.01F * relative * wanted(k));
    }
    // Folding what was folded changes nothing.
    EXPECT_EQ(fold_into_norm(weight, {}, folded.scales, type).weight, folded.weight);
    const FoldedNorm same = fold_into_norm(weight, {}, Vector::Ones(50), type);
    EXPECT_EQ(same.weight, weight);
    EXPECT_TRUE(same.scales.isOnes());
  }
}

TEST(FoldScales, WhatTheStoredTypeCannotHoldIsLimitedAndCounted) {
  Vector weight(6);
  weight << 0.F, 0.F, 1.F, -1.F, -0x1p-10F, 1.F;
  Vector wanted(6);
  wanted << 3.F, 1.F, 1e-6F, 1e6F, 1e-12F, 1e10F;
  const FoldedNorm folded = fold_into_norm(weight, {}, wanted, Dtype::kF16);
  EXPECT_EQ(folded.weight(0), 0.F);
  EXPECT_EQ(folded.scales(0), 1.F);
  EXPECT_EQ(folded.scales(1), 1.F);
  EXPECT_EQ(folded.weight(2), 65504.F);
  EXPECT_EQ(folded.weight(3), round_to(-1e-6F, Dtype::kF16));
  EXPECT_EQ(folded.weight(4), -65504.F);
  EXPECT_EQ(folded.weight(5), 0x1p-24F);
  EXPECT_EQ(folded.limited, 4);  // 0, 2, 4, 5
  for (int64_t k = 0; k < 6; ++k) {
    EXPECT_TRUE(std::isnormal(folded.scales(k))) << k;
    EXPECT_FLOAT_EQ(folded.weight(k) * folded.scales(k), weight(k)) << k;
  }
  weight.setConstant(0x1p100F);
  const FoldedNorm wide = fold_into_norm(weight, {}, Vector::Constant(6, 0x1p126F), Dtype::kF32);
  EXPECT_EQ(wide.scales, Vector::Constant(6, 0x1p126F));
  EXPECT_EQ(wide.limited, 0);
}

TEST(FoldScales, QueryHeadsReadTheirKeyAndValueHead) {
  // 4 query heads of 2 inputs, 2 value heads: heads 0 and 1 read the first.
  EXPECT_EQ(value_row_of_input(4, 2, 2), (std::vector<int32_t>{0, 1, 0, 1, 2, 3, 2, 3}));
  EXPECT_EQ(value_row_of_input(2, 2, 2), (std::vector<int32_t>{0, 1, 2, 3}));
}

// Attention mixes tokens and not channels: with tied scales, values divided by them and the output
// layer multiplied by them compute the same.
TEST(FoldScales, ValuesAndOutputLayerComputeTheSame) {
  const int64_t heads = 6;
  const int64_t size = 4;
  const Matrix values = random_matrix(5, 2 * size, 12);
  const Matrix mix = random_matrix(heads * 5, 5, 13);  // attention of each head
  const Matrix W = random_matrix(7, heads * size, 14);
  const Vector of_row = random_scales(2 * size, 15);
  const std::vector<int32_t> rows = value_row_of_input(heads, 2, size);
  const auto attend = [&](const Matrix& v) {
    Matrix o(5, heads * size);
    for (int64_t head = 0; head < heads; ++head) {
      o.middleCols(head * size, size) =
          mix.middleRows(head * 5, 5) * v.middleCols(rows[static_cast<size_t>(head * size)], size);
    }
    return o;
  };
  Vector s(heads * size);
  for (int64_t k = 0; k < s.size(); ++k) s(k) = of_row(rows[static_cast<size_t>(k)]);
  const Output expected = layer(attend(values), W);
  const Output got = layer(attend(values * of_row.cwiseInverse().asDiagonal()), W * s.asDiagonal());
  const double magnitude = values.cast<double>().cwiseAbs().maxCoeff() *
                           mix.cast<double>().cwiseAbs().rowwise().sum().maxCoeff() *
                           W.cast<double>().cwiseAbs().rowwise().sum().maxCoeff();
  EXPECT_LE((got.y - expected.y).cwiseAbs().maxCoeff(), 16. * kEpsilon * magnitude);
  EXPECT_GT(expected.y.cwiseAbs().maxCoeff(), 1e3 * kEpsilon * magnitude);
}

}  // namespace
}  // namespace nibble
