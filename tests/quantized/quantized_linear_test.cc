#include "src/quantized/quantized_linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "tests/quantized/layers.h"

namespace nibble {
namespace {

// dequantize() by its definition, weight by weight.
Matrix by_definition(const QuantizedLinear& q) {
  Matrix W(q.N, q.K);
  for (int64_t n = 0; n < q.N; ++n) {
    for (int64_t k = 0; k < q.K; ++k) {
      const BlockParameters p = block_parameters(q, n, k);
      W(n, k) = (level(q, n, k) - p.zero) * p.scale;
      if (q.scheme.minimum) W(n, k) += p.minimum;
    }
  }
  return W;
}

TEST(QuantizedLinear, DequantizeIsItsDefinitionForEveryBitWidthAndBlocking) {
  const std::vector<Blocking> blockings = {{.rows = 1, .columns = 32},
                                           {.rows = 1, .columns = 24},
                                           {.rows = 1, .columns = 3},
                                           {.rows = 1, .columns = kAll},
                                           {.rows = kAll, .columns = kAll},
                                           {.rows = kAll, .columns = 50},
                                           {.rows = 2, .columns = 64},
                                           {.rows = 1, .columns = 64, .flattened = true},
                                           {.rows = 1, .columns = 7, .flattened = true}};
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool symmetric : {true, false}) {
      for (const Blocking& blocking : blockings) {
        Scheme scheme = integer_scheme(bits, kAll, symmetric, Dtype::kF16);
        scheme.blocking = blocking;
        const QuantizedLinear q = random_layer(scheme, 5, 100);
        ASSERT_NO_THROW(check(q, "layer"));
        const Matrix W = dequantize(q);
        const Matrix expected = by_definition(q);
        ASSERT_TRUE(W == expected) << describe(scheme);
        for (int64_t i = 0; i < W.size(); ++i) {
          ASSERT_EQ(std::signbit(W.data()[i]), std::signbit(expected.data()[i])) << i;
        }
      }
    }
  }
}

TEST(QuantizedLinear, ZeroWeightsOfANegativeScaleKeepTheirSign) {
  QuantizedLinear q = random_layer(integer_scheme(4, kAll, true, Dtype::kF16), 1, 2);
  q.codes = tensor_of(Dtype::kU8, {1, 2}, std::vector<uint8_t>{8, 9});
  q.scale.values = f16_tensor({1}, {-0.5F});
  EXPECT_TRUE(std::signbit(dequantize(q)(0, 0)));
  EXPECT_EQ(dequantize(q)(0, 1), -0.5F);
  q.scheme.minimum = parameter(Dtype::kF16, 16);
  q.minimum.values = f16_tensor({1}, {0.F});
  EXPECT_FALSE(std::signbit(dequantize(q)(0, 0)));
}

TEST(QuantizedLinear, RowsCanBeTakenFromTheMiddleIntoAWiderMatrix) {
  const QuantizedLinear q = random_layer(integer_scheme(3, 32, false, Dtype::kF16), 9, 100);
  Matrix wide = Matrix::Constant(4, 120, 77.F);
  dequantize_rows(q, float_parameters(q), 3, wide.middleCols(10, 100));
  EXPECT_TRUE(wide.middleCols(10, 100) == dequantize(q).middleRows(3, 4));
  EXPECT_TRUE((wide.leftCols(10).array() == 77.F).all());
  EXPECT_TRUE((wide.rightCols(10).array() == 77.F).all());
}

TEST(QuantizedLinear, ColumnGroupsChooseTheBlock) {
  QuantizedLinear q = random_layer(integer_scheme(4, 25, false, Dtype::kF16), 6, 100);
  for (int32_t k = 0; k < 100; ++k) q.group_of_column.push_back(k * 7 % 4);
  ASSERT_NO_THROW(check(q, "layer"));
  EXPECT_EQ(block_index(q, 2, 3), 2 * 4 + 21 % 4);
  EXPECT_TRUE(dequantize(q) == by_definition(q));
}

TEST(QuantizedLinear, EachBlockParameterHasItsSecondLevel) {
  // 4 rows of 4 groups; second levels over 8, over all, over a row, dividing, with an offset.
  Scheme scheme = integer_scheme(4, 16, true, Dtype::kF16);
  const std::vector<uint8_t> stored = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  const auto value = [&](const SecondLevel& second, int64_t count, int64_t index) {
    scheme.scale = second_level(parameter(Dtype::kU8, 8), second);
    QuantizedLinear q = random_layer(integer_scheme(4, 16, true, Dtype::kF16), 4, 64);
    q.scheme = scheme;
    q.scale.values = tensor_of(Dtype::kU8, {4, 4}, stored);
    std::vector<float> seconds;
    for (int64_t i = 0; i < count; ++i) seconds.push_back(std::ldexp(1.F, static_cast<int>(i) + 1));
    q.scale.second = f16_tensor({count}, seconds);
    q.scale.offset = second.has_offset ? 0.25F : 0.F;
    check(q, "layer");
    const float all = float_parameters(q).scale[static_cast<size_t>(index)];
    EXPECT_EQ(all, parameter_value(*scheme.scale, q.scale, index, q.N));
    EXPECT_EQ(all, block_parameters(q, index / 4, index % 4 * 16).scale);
    return all;
  };
  EXPECT_EQ(value({.block = 8}, 2, 7), 8.F * 2.F);
  EXPECT_EQ(value({.block = 8}, 2, 8), 9.F * 4.F);
  EXPECT_EQ(value({.block = 5}, 4, 15), 16.F * 16.F);
  EXPECT_EQ(value({.block = kAll}, 1, 15), 16.F * 2.F);
  EXPECT_EQ(value({.block = kOneRow}, 4, 6), 7.F * 4.F);
  EXPECT_EQ(value({.block = kAll, .divides = true}, 1, 6), 7.F / 2.F);
  EXPECT_EQ(value({.block = kAll, .has_offset = true}, 1, 6), 7.F * 2.F + 0.25F);
}

TEST(QuantizedLinear, StoredIntegersMayStandForTableValues) {
  QuantizedLinear q = random_layer(integer_scheme(4, 20, true, Dtype::kF16), 2, 40);
  q.scheme.scale = parameter(Dtype::kU8, 2);
  q.scheme.scale->table = {0.5F, 0.25F, -1.F, 3.F};
  q.scale.values = tensor_of(Dtype::kU8, {4}, std::vector<uint8_t>{3, 0, 2, 1});
  ASSERT_NO_THROW(check(q, "layer"));
  EXPECT_EQ(float_parameters(q).scale, (std::vector<float>{3.F, 0.5F, -1.F, 0.25F}));
  EXPECT_TRUE(dequantize(q) == by_definition(q));
}

TEST(QuantizedLinear, SignedAndFloatZerosAreSubtractedFromTheLevel) {
  QuantizedLinear q = random_layer(integer_scheme(4, kAll, false, Dtype::kF16), 1, 2);
  q.codes = tensor_of(Dtype::kU8, {1, 2}, std::vector<uint8_t>{0, 15});
  q.scale.values = f16_tensor({1}, {0.5F});
  q.scheme.zero = parameter(Dtype::kI8, 8);
  q.zero.values = tensor_of(Dtype::kI8, {1}, std::vector<int8_t>{-3});
  EXPECT_EQ(dequantize(q), (Matrix(1, 2) << 1.5F, 9.F).finished());
  q.scheme.zero = parameter(Dtype::kF16, 16);
  q.zero.values = f16_tensor({1}, {7.25F});
  EXPECT_EQ(dequantize(q), (Matrix(1, 2) << -3.625F, 3.875F).finished());
}

TEST(QuantizedLinear, WeightOnlyMatmulIsThatOfTheDequantizedWeights) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 32, false, Dtype::kF16), 6, 64);
  Sequence sequence(3);
  const Matrix x = Matrix::NullaryExpr(5, 64, [&] { return sequence.uniform(); });
  const Matrix y = quantized_matmul_reference(x, q);
  const Matrix W = by_definition(q);
  for (int64_t t = 0; t < 5; ++t) {
    for (int64_t n = 0; n < 6; ++n) {
      double sum = 0.;
      double magnitude = 0.;
      for (int64_t k = 0; k < 64; ++k) {
        sum += static_cast<double>(x(t, k)) * static_cast<double>(W(n, k));
        magnitude += std::fabs(static_cast<double>(x(t, k)) * static_cast<double>(W(n, k)));
      }
      EXPECT_NEAR(y(t, n), sum, magnitude * 0x1p-24 + std::fabs(sum) * 0x1p-23);
    }
  }
}

// int8 weights per channel and activations of `activations`; x [T, K] with a few large values.
struct W8A8 {
  QuantizedLinear q;
  Matrix x;
};

W8A8 w8a8(const ActivationScheme& activations) {
  W8A8 result;
  Scheme scheme = integer_scheme(8, kAll, true, Dtype::kF16);
  scheme.activations = activations;
  result.q = random_layer(scheme, 6, 96);
  Sequence sequence(11);
  result.x = Matrix::NullaryExpr(4, 96, [&] { return sequence.uniform(); });
  result.x(1, 5) = 8.F;
  result.x(2, 7) = -3.F;
  result.x.row(3).setZero();
  return result;
}

// Plain integer loops: s_t s_n sum (q_x - z_t) (code - 128), the sums exact in int64.
void expect_integer_sums(const W8A8& layer, const Eigen::MatrixXi& inputs,
                         const std::vector<float>& scales, const std::vector<int>& zeros) {
  const Matrix y = quantized_matmul_reference(layer.x, layer.q);
  for (int64_t t = 0; t < layer.x.rows(); ++t) {
    for (int64_t n = 0; n < layer.q.N; ++n) {
      int64_t sum = 0;
      for (int64_t k = 0; k < layer.q.K; ++k) {
        const int code = layer.q.codes.values<uint8_t>()[static_cast<size_t>(n * layer.q.K + k)];
        sum += int64_t{inputs(t, k) - zeros[static_cast<size_t>(t)]} * (code - 128);
      }
      const float weight_scale =
          f16_to_float(layer.q.scale.values.values<uint16_t>()[static_cast<size_t>(n)]);
      const double expected = static_cast<double>(sum) * static_cast<double>(weight_scale) *
                              static_cast<double>(scales[static_cast<size_t>(t)]);
      EXPECT_EQ(y(t, n), static_cast<float>(expected)) << t << " " << n;
    }
  }
}

int to_int8(float value) {
  return static_cast<int>(std::min(127.F, std::max(-128.F, std::nearbyint(value))));
}

TEST(QuantizedLinear, HoldsW8A8Static) {
  W8A8 layer = w8a8({.dynamic = false, .per_token = false});
  layer.q.input_scale = f16_tensor({1}, {2.F / 127.F});
  ASSERT_NO_THROW(check(layer.q, "layer"));
  const float scale = round_to(2.F / 127.F, Dtype::kF16);
  Eigen::MatrixXi inputs(4, 96);
  for (int64_t i = 0; i < 4; ++i) {
    for (int64_t k = 0; k < 96; ++k) inputs(i, k) = to_int8(layer.x(i, k) / scale);
  }
  EXPECT_EQ(inputs(1, 5), 127);  // saturated
  EXPECT_EQ(inputs(2, 7), -128);
  expect_integer_sums(layer, inputs, std::vector<float>(4, scale), std::vector<int>(4, 0));
}

TEST(QuantizedLinear, HoldsW8A8StaticWithAZeroPoint) {
  W8A8 layer = w8a8({.symmetric = false, .dynamic = false, .per_token = false});
  layer.q.input_scale = f32_tensor({1}, {0.04F});
  layer.q.input_zero = tensor_of(Dtype::kI8, {1}, std::vector<int8_t>{-50});
  ASSERT_NO_THROW(check(layer.q, "layer"));
  Eigen::MatrixXi inputs(4, 96);
  for (int64_t i = 0; i < 4; ++i) {
    for (int64_t k = 0; k < 96; ++k) {
      inputs(i, k) = to_int8(std::nearbyint(layer.x(i, k) / 0.04F) - 50.F);
    }
  }
  expect_integer_sums(layer, inputs, std::vector<float>(4, 0.04F), std::vector<int>(4, -50));
}

TEST(QuantizedLinear, HoldsW8A8DynamicPerToken) {
  const W8A8 layer = w8a8({});
  ASSERT_NO_THROW(check(layer.q, "layer"));
  Eigen::MatrixXi inputs(4, 96);
  std::vector<float> scales;
  for (int64_t t = 0; t < 4; ++t) {
    const float absmax = layer.x.row(t).cwiseAbs().maxCoeff();
    scales.push_back(absmax == 0.F ? 1.F : absmax * 2.F / 255.F);
    for (int64_t k = 0; k < 96; ++k) inputs(t, k) = to_int8(layer.x(t, k) / scales.back());
  }
  EXPECT_EQ(scales[3], 1.F);
  expect_integer_sums(layer, inputs, scales, std::vector<int>(4, 0));
}

TEST(QuantizedLinear, HoldsW8A8DynamicPerTensorWithAZeroPoint) {
  const W8A8 layer = w8a8({.symmetric = false, .per_token = false});
  const float scale = (8.F - -3.F) / 255.F;
  const int zero = static_cast<int>(std::nearbyint(3.F / scale)) - 128;
  Eigen::MatrixXi inputs(4, 96);
  for (int64_t t = 0; t < 4; ++t) {
    for (int64_t k = 0; k < 96; ++k) {
      inputs(t, k) = to_int8(std::nearbyint(layer.x(t, k) / scale) + static_cast<float>(zero));
    }
  }
  expect_integer_sums(layer, inputs, std::vector<float>(4, scale), std::vector<int>(4, zero));
}

TEST(QuantizedLinear, Fp8ActivationsAreRoundedToE4m3) {
  const W8A8 layer = w8a8({.is_float = true});
  const Matrix y = quantized_matmul_reference(layer.x, layer.q);
  const Matrix W = by_definition(layer.q);
  for (int64_t t = 0; t < 4; ++t) {
    const float absmax = layer.x.row(t).cwiseAbs().maxCoeff();
    const float scale = absmax == 0.F ? 1.F : absmax / 448.F;
    for (int64_t n = 0; n < 6; ++n) {
      double sum = 0.;
      for (int64_t k = 0; k < 96; ++k) {
        const float level =
            f8_to_float(float_to_f8(layer.x(t, k) / scale, Dtype::kF8E4M3), Dtype::kF8E4M3);
        sum += static_cast<double>(level * scale) * static_cast<double>(W(n, k));
      }
      EXPECT_NEAR(y(t, n), sum, 1e-6 * std::fabs(sum) + 1e-9) << t << " " << n;
    }
  }
}

}  // namespace
}  // namespace nibble
