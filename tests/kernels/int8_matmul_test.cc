#include "kernels/int8_matmul.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <tuple>
#include <vector>

#include "kernels/int8_paths.h"
#include "kernels/matmul.h"
#include "quantizers/solvers/rtn.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

enum class Values { kRandom, kLowest, kHighest, kMixedExtremes };

std::vector<int8_t> integers(size_t count, Values values, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int8_t> result(count);
  for (int8_t& value : result) {
    const auto bits = static_cast<uint32_t>(random());
    switch (values) {
      case Values::kRandom:
        value = static_cast<int8_t>(bits & 0xFFU);
        break;
      case Values::kLowest:
        value = -128;
        break;
      case Values::kHighest:
        value = 127;
        break;
      case Values::kMixedExtremes:
        value = (bits & 1U) != 0 ? int8_t{-128} : int8_t{127};
        break;
    }
  }
  return result;
}

using PathCase = std::tuple<int64_t, int64_t, int64_t, Values, Values>;  // T, rows, K, x, w

class Int8Paths : public testing::TestWithParam<PathCase> {};

INSTANTIATE_TEST_SUITE_P(
    Shapes, Int8Paths,
    testing::Combine(testing::Values(1, 7, 8, 17), testing::Values(1, 31, 32),
                     testing::Values(1, 3, 64, 131, 4096),
                     testing::Values(Values::kRandom, Values::kLowest, Values::kMixedExtremes),
                     testing::Values(Values::kRandom, Values::kLowest, Values::kHighest,
                                     Values::kMixedExtremes)));

TEST_P(Int8Paths, SumsEqualAPlainIntegerLoopBitForBit) {
  const auto [T, rows, K, x_values, w_values] = GetParam();
  const int64_t stride = (K + 3) / 4 * 4;
  const std::vector<int8_t> dense = integers(static_cast<size_t>(T * K), x_values, 1);
  const std::vector<int8_t> w = integers(static_cast<size_t>(rows * K), w_values, 2);
  std::vector<int8_t> x(static_cast<size_t>(T * stride), 0);
  std::vector<int32_t> input_sums(static_cast<size_t>(T), 0);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t k = 0; k < K; ++k) {
      x[static_cast<size_t>(t * stride + k)] = dense[static_cast<size_t>(t * K + k)];
      input_sums[static_cast<size_t>(t)] += dense[static_cast<size_t>(t * K + k)];
    }
  }
  for (const Int8Path* path : int8_paths()) {
    std::vector<std::byte> panel(static_cast<size_t>(path->panel_bytes(K)));
    path->pack_panel(w.data(), rows, K, panel.data());
    std::vector<int32_t> sums(static_cast<size_t>(T * kInt8Panel), -1);
    path->multiply(x.data(), stride, input_sums.data(), T, panel.data(), K, sums.data());
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t n = 0; n < kInt8Panel; ++n) {
        int64_t expected = 0;
        for (int64_t k = 0; k < K && n < rows; ++k) {
          expected += int64_t{dense[static_cast<size_t>(t * K + k)]} *
                      int64_t{w[static_cast<size_t>(n * K + k)]};
        }
        ASSERT_EQ(int64_t{sums[static_cast<size_t>(t * kInt8Panel + n)]}, expected)
            << path->name << ": token " << t << ", output " << n;
      }
    }
  }
}

Matrix random_matrix(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Matrix values(rows, columns);
  for (int64_t i = 0; i < values.size(); ++i) values.data()[i] = normal(random);
  return values;
}

QuantizedLinear layer(int64_t N, int64_t K, const ActivationScheme& activations) {
  Scheme scheme = integer_scheme(8, kAll, true, Dtype::kF16);
  const Matrix W = random_matrix(N, K, 3);
  QuantizedLinear q = solve_rtn({.W = W, .scheme = scheme, .where = "layer"}).q;
  q.scheme.activations = activations;
  if (!activations.dynamic) {
    const float scale = 0.03F;
    q.input_scale = Tensor::copy_of(Dtype::kF32, {1}, std::span(&scale, 1));
    if (!activations.symmetric) {
      const int8_t zero = -11;
      q.input_zero = Tensor::copy_of(Dtype::kI8, {1}, std::span(&zero, 1));
    }
  }
  return q;
}

class Int8Matmul : public testing::TestWithParam<std::tuple<bool, bool, bool>> {
 protected:
  ActivationScheme activations() const {
    const auto [symmetric, dynamic, per_token] = GetParam();
    return {.bits = 8, .symmetric = symmetric, .dynamic = dynamic, .per_token = per_token};
  }
};

INSTANTIATE_TEST_SUITE_P(Activations, Int8Matmul,
                         testing::Values(std::tuple(true, true, true),
                                         std::tuple(true, true, false),
                                         std::tuple(true, false, false),
                                         std::tuple(false, true, true),
                                         std::tuple(false, false, false)));

TEST_P(Int8Matmul, IsTheReferenceUpToOneRoundingOfScales) {
  for (const auto& [T, N, K] : {std::tuple(1, 40, 64), std::tuple(130, 70, 257)}) {
    const QuantizedLinear q = layer(N, K, activations());
    Matrix x = random_matrix(T, K, 4);
    x.row(0).setZero();
    const Matrix expected = quantized_matmul_reference(x, q);
    const Int8Linear w = make_int8(q);
    Matrix y(T, N);
    int8_matmul(x, w, y);
    for (int64_t i = 0; i < y.size(); ++i) {
      // The sum rounded to float, the product of scales, the product: three roundings.
      ASSERT_NEAR(y.data()[i], expected.data()[i], 4 * 0x1p-24 * std::abs(expected.data()[i]));
    }
    Matrix added = Matrix::Ones(T, N);
    int8_matmul(x, w, added, Accumulate::kYes);
    EXPECT_EQ(added, Matrix(Matrix::Ones(T, N) + y));
  }
}

TEST_P(Int8Matmul, ThreadsAndParallelRegionsDoNotMatter) {
  const QuantizedLinear q = layer(100, 96, activations());
  const Int8Linear w = make_int8(q);
  const Matrix x = random_matrix(200, 96, 5);
  Matrix y(200, 100);
  int8_matmul(x, w, y);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  Matrix one(200, 100);
  int8_matmul(x, w, one);
  omp_set_num_threads(before);
  EXPECT_EQ(y, one);
  Matrix inside(200, 100);
#pragma omp parallel
#pragma omp single
  int8_matmul(x, w, inside);
  EXPECT_EQ(y, inside);
}

TEST_P(Int8Matmul, SimulationAgreesInFloat) {
  const QuantizedLinear q = layer(33, 128, activations());
  const Int8Linear w = make_int8(q);
  const Matrix x = random_matrix(9, 128, 6);
  Matrix y(9, 33);
  int8_matmul(x, w, y);
  const Matrix simulated = simulate_activations(x, w.activations, w.input_scale, w.input_zero) *
                           dequantize(q).transpose();
  EXPECT_LE((y - simulated).norm(), 1e-5 * y.norm());
}

TEST(Int8Linear, ProgressiveGroupsRunOnTheirEightBitProducts) {
  for (const auto& [T, N, K] : {std::tuple(1, 40, 64), std::tuple(130, 70, 257)}) {
    QuantizedLinear q =
        solve_rtn(
            {.W = random_matrix(N, K, 3), .scheme = progressive_scheme(128), .where = "layer"})
            .q;
    q.scheme.activations = ActivationScheme{};
    ASSERT_TRUE(can_run_int8(q));
    const Matrix x = random_matrix(T, K, 4);
    const Matrix expected = quantized_matmul_reference(x, q);
    Matrix y(T, N);
    int8_matmul(x, make_int8(q), y);
    for (int64_t i = 0; i < y.size(); ++i) {
      // As above: the integers of the weights are exact.
      ASSERT_NEAR(y.data()[i], expected.data()[i], 4 * 0x1p-24 * std::abs(expected.data()[i]));
    }
    q.scale.values.mutable_values<int8_t>()[0] = 100;
    EXPECT_FALSE(can_run_int8(q));
  }
}

TEST(Int8Linear, OtherSchemesAreRefused) {
  QuantizedLinear q = layer(8, 64, {});
  EXPECT_TRUE(can_run_int8(q));
  q.scheme.activations.reset();
  EXPECT_FALSE(can_run_int8(q));
  EXPECT_THROW(make_int8(q), Error);
}

}  // namespace
}  // namespace nibble
