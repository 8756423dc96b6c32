#include "quantizers/transforms/fold_scales.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/norm.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

Matrix random_matrix(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Matrix values(rows, columns);
  for (int64_t i = 0; i < values.size(); ++i) values.data()[i] = normal(random);
  return values;
}

Vector random_scales(int64_t count, uint32_t seed) {
  return random_matrix(1, count, seed).row(0).transpose().array().exp().matrix();
}

class FoldIntoNorm : public testing::TestWithParam<Dtype> {};
INSTANTIATE_TEST_SUITE_P(Types, FoldIntoNorm,
                         testing::Values(Dtype::kF16, Dtype::kBF16, Dtype::kF32));

TEST_P(FoldIntoNorm, TheLayersOutputStaysWhateverTheStoredType) {
  constexpr int64_t kInputs = 48;
  const Matrix x = random_matrix(9, kInputs, 1);
  const Vector weight = random_matrix(1, kInputs, 2).row(0).transpose();
  const Matrix W = random_matrix(20, kInputs, 3);
  const FoldedNorm folded = fold_into_norm(weight, {}, random_scales(kInputs, 4), GetParam());
  EXPECT_EQ(folded.limited, 0);
  Matrix before(9, kInputs);
  Matrix after(9, kInputs);
  rms_norm(x, weight, 1e-5F, before);
  rms_norm(x, folded.weight, 1e-5F, after);
  const Matrix expected = before * W.transpose();
  const Matrix got = after * (W * folded.scales.asDiagonal()).transpose();
  // Products of 48 terms in float, each with a handful of roundings.
  EXPECT_LE((got - expected).norm(), 60 * 0x1p-24 * before.norm() * W.norm());
}

TEST_P(FoldIntoNorm, ABiasIsRoundedToItsTypeAndNoMore) {
  constexpr int64_t kInputs = 48;
  const Vector weight = random_matrix(1, kInputs, 5).row(0).transpose();
  const Vector bias = random_matrix(1, kInputs, 6).row(0).transpose();
  const FoldedNorm folded = fold_into_norm(weight, bias, random_scales(kInputs, 7), GetParam());
  const double unit = GetParam() == Dtype::kF16    ? 0x1p-11
                      : GetParam() == Dtype::kBF16 ? 0x1p-8
                                                   : 0x1p-23;
  for (int64_t k = 0; k < kInputs; ++k) {
    EXPECT_NEAR(folded.bias(k) * folded.scales(k), bias(k), 1.01 * unit * std::abs(bias(k)) + 1e-7);
  }
}

TEST(FoldIntoNormLimits, ChannelsThatCannotTakeTheirScaleAreLeftAlone) {
  Vector weight = Vector::Ones(4);
  weight(1) = 0.F;
  Vector scales = Vector::Ones(4);
  scales(1) = 2.F;
  scales(2) = 1e-6F;  // 1e6 is beyond F16
  scales(3) = 1e9F;   // 1e-9 is below it
  const FoldedNorm folded = fold_into_norm(weight, {}, scales, Dtype::kF16);
  EXPECT_EQ(folded.limited, 3);
  EXPECT_EQ(folded.weight, weight);
  EXPECT_EQ(folded.scales, Vector(Vector::Ones(4)));
}

TEST(ValueRows, QueryHeadsReadTheirKeyAndValueHead) {
  EXPECT_EQ(value_row_of_input(4, 2, 2), (std::vector<int32_t>{0, 1, 0, 1, 2, 3, 2, 3}));
  EXPECT_EQ(value_row_of_input(2, 2, 2), (std::vector<int32_t>{0, 1, 2, 3}));
}

}  // namespace
}  // namespace nibble
