// Scales of scales: what integers are fitted to and what they read back as. bitsandbytes' bytes:
// tests/quantized/normal_float_test.cc.
#include "src/quantized/second_level.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "src/quantized/comparison.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "tests/quantized/layers.h"

namespace nibble {
namespace {

RoundedLinear rounded(const Matrix& W, const Scheme& scheme,
                      const std::vector<int32_t>& groups = {}) {
  RoundedLinear result = quantize_to_nearest(W, scheme, range_rules().front(), groups, "layer");
  check(result.q, "layer");
  return result;
}

// Nearly normal weights, rows of different size.
Matrix normal_rows(int64_t N, int64_t K, double spread) {
  Sequence sequence(3);
  const auto normal = [&] {
    double sum = 0.;
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(sequence.uniform());
    return sum / 2.;
  };
  Matrix W(N, K);
  for (int64_t n = 0; n < N; ++n) {
    const double size = std::exp(spread * normal());
    for (int64_t k = 0; k < K; ++k) W(n, k) = static_cast<float>(0.02 * size * normal());
  }
  return W;
}

Scheme int4(bool symmetric, int64_t group) {
  return integer_scheme(4, group, symmetric, Dtype::kF16);
}

TEST(SecondLevel, BitsPerWeightAreThoseOfTheFiles) {
  const auto bits = [](const Scheme& scheme) { return bits_per_weight(scheme, 4096, 4096); };
  EXPECT_DOUBLE_EQ(bits(double_quantized(int4(false, 128))),
                   4. + 12. / 128. + 32. / 128. / 256. + 32. / 4096. / 4096.);
  EXPECT_EQ(bits(progressive_scheme(128)), 4. + 12. / 128. + 16. / 4096.);
}

TEST(SecondLevel, NamesSayWhatTheyAre) {
  EXPECT_EQ(describe(double_quantized(integer_scheme(3, 64, true, Dtype::kF16))),
            "int3 g64 symmetric, double-quantized");
  EXPECT_EQ(describe(progressive_scheme(128)), "int4 g128 asymmetric, two-level");
  EXPECT_TRUE(is_progressive(progressive_scheme(kAll)));
  EXPECT_FALSE(is_progressive(double_quantized(int4(false, 128))));
  EXPECT_FALSE(is_progressive(int4(false, 128)));
}

TEST(SecondLevel, DoubleQuantizedIntegersAreNearlyAsGoodAsPlainOnes) {
  const Matrix W = normal_rows(96, 512, 0.3);
  for (const bool symmetric : {true, false}) {
    const double plain = relative_error(W, rounded(W, int4(symmetric, 64)).q);
    const RoundedLinear nested = rounded(W, double_quantized(int4(symmetric, 64)));
    EXPECT_LT(relative_error(W, nested.q), 1.03 * plain);
    for (const float scale : float_parameters(nested.q).scale) EXPECT_GT(scale, 0.F);
  }
}

// A scale reads back as the nearest that can: no other byte is nearer.
TEST(SecondLevel, ScalesReadBackAsTheNearest) {
  const Matrix W = normal_rows(64, 256, 1.);
  const Scheme plain = integer_scheme(4, 64, true, Dtype::kF32);
  const std::vector<float> fitted = float_parameters(rounded(W, plain).q).scale;
  const QuantizedLinear q = rounded(W, double_quantized(plain)).q;
  const std::vector<float> read = float_parameters(q).scale;
  ASSERT_EQ(read.size(), 256U);
  for (size_t b = 0; b < read.size(); ++b) {
    for (const float step : dynamic_map()) {
      const float other = step * q.scale.second.values<float>()[0] + q.scale.offset;
      if (other <= 0.F) continue;
      EXPECT_LE(std::fabs(fitted[b] - read[b]), std::fabs(fitted[b] - other)) << b;
    }
  }
}

TEST(SecondLevel, GroupsOfZerosDoNotSpoilTheirNeighbours) {
  Matrix W = normal_rows(16, 64, 0.) * 1e-3F;
  const Matrix full = W;
  W.row(2).setZero();
  W.row(3).head(32).setZero();
  for (const Scheme& scheme : {double_quantized(int4(false, 32)), double_quantized(int4(true, 32)),
                               progressive_scheme(32)}) {
    const QuantizedLinear q = rounded(W, scheme).q;
    const Matrix back = dequantize(q);
    EXPECT_TRUE(back.row(2).isZero(0.F));
    EXPECT_TRUE(back.row(3).head(32).isZero(0.F));
    EXPECT_LT((W - back).norm() / W.norm(), 1.05 * relative_error(full, rounded(full, scheme).q))
        << describe(scheme);
  }
  W.setZero();
  for (const Scheme& scheme : {double_quantized(int4(false, 32)), progressive_scheme(32)}) {
    EXPECT_EQ(dequantize(rounded(W, scheme).q), W);
  }
}

TEST(SecondLevel, ColumnGroupsAreFitted) {
  const Matrix W = normal_rows(16, 96, 0.2);
  std::vector<int32_t> groups;
  for (int32_t k = 0; k < 96; ++k) groups.push_back(k % 3);
  for (const Scheme& scheme : {double_quantized(int4(false, 32)), progressive_scheme(32)}) {
    EXPECT_LT(relative_error(W, rounded(W, scheme, groups).q), 0.12) << describe(scheme);
  }
}

TEST(SecondLevel, WhatCannotBeFittedIsAnError) {
  Matrix W = normal_rows(4, 64, 0.);
  EXPECT_THROW(quantize_to_nearest(W, progressive_scheme(32), range_rule("gptq"), {}, "m"), Error);
  Scheme divided = double_quantized(int4(true, 32));
  divided.scale->second->divides = true;
  EXPECT_THROW(rounded(W, divided), Error);
  W(1, 2) = 1e7F;  // 1e7 / 119 is infinite in F16
  EXPECT_THROW(rounded(W, progressive_scheme(32)), Error);
  W(2, 7) = std::numeric_limits<float>::quiet_NaN();
  for (const Scheme& scheme : {progressive_scheme(32), double_quantized(int4(true, 32))}) {
    try {
      rounded(W, scheme);
      FAIL() << describe(scheme);
    } catch (const Error& error) {
      EXPECT_TRUE(std::string(error.what()).starts_with("layer: NaN at row 2, column 7"));
    }
  }
}

TEST(Progressive, EveryCodeTimesItsScaleIsAnInt8) {
  Matrix W = normal_rows(64, 256, 1.);
  W.row(3).setZero();
  W.row(4).head(128).setZero();
  W.row(5) = W.row(5).cwiseAbs();
  W(6, 0) = 1.F;  // both ends of the range in one group
  W(6, 1) = -1.F;
  W.row(7) *= 1e-8F;  // row scales below F16's smallest
  const QuantizedLinear q = rounded(W, progressive_scheme(128)).q;
  EXPECT_TRUE(fits_int8(q));
  const auto stored = q.scale.values.values<int8_t>();
  EXPECT_EQ(*std::min_element(stored.begin(), stored.end()), 1);
  EXPECT_EQ(*std::max_element(stored.begin(), stored.end()), 16);
  const Matrix back = dequantize(q);
  std::vector<int8_t> integers(256);
  for (int64_t n = 0; n < 64; ++n) {
    const float second = f16_to_float(q.scale.second.values<uint16_t>()[static_cast<size_t>(n)]);
    if (n != 3 && n != 7) {
      EXPECT_NEAR(second * 119.F / W.row(n).cwiseAbs().maxCoeff(), 1.F, 1e-3F) << n;
    }
    integer_row(q, n, integers);
    for (int64_t k = 0; k < 256; ++k) {
      EXPECT_EQ(back(n, k), static_cast<float>(integers[static_cast<size_t>(k)]) * second);
    }
  }
}

TEST(Progressive, HostileScalesAreNoInt8) {
  QuantizedLinear q = rounded(normal_rows(4, 256, 0.), progressive_scheme(128)).q;
  EXPECT_TRUE(fits_int8(q));
  q.scale.values.mutable_values<int8_t>()[5] = 17;
  EXPECT_FALSE(fits_int8(q));
  q.scale.values.mutable_values<int8_t>()[5] = -17;
  EXPECT_FALSE(fits_int8(q));
}

TEST(Progressive, CostsLittleAgainstPlainGroups) {
  const Matrix W = normal_rows(128, 512, 0.5);
  const double plain = relative_error(W, rounded(W, int4(false, 128)).q);
  EXPECT_LE(relative_error(W, rounded(W, progressive_scheme(128)).q), plain * 1.05);
}

}  // namespace
}  // namespace nibble
