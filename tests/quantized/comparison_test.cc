#include "src/quantized/comparison.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "src/quantized/codebooks.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "tests/quantized/layers.h"

namespace nibble {
namespace {

int64_t clipped(const QuantizedLinear& q, float w) {
  return compare(Matrix::Constant(q.N, q.K, w), q).clipped;
}

// Weights are clipped beyond, and only beyond, these two and 1/512 of the range.
void expect_limits(const QuantizedLinear& q, float low, float high, float range) {
  low -= range / 512.F;
  high += range / 512.F;
  const float infinity = std::numeric_limits<float>::infinity();
  const int64_t all = q.N * q.K;
  EXPECT_EQ(clipped(q, high), 0);
  EXPECT_EQ(clipped(q, std::nextafter(high, infinity)), all);
  EXPECT_EQ(clipped(q, low), 0);
  EXPECT_EQ(clipped(q, std::nextafter(low, -infinity)), all);
  EXPECT_EQ(clipped(q, infinity), all);
}

TEST(Comparison, ClipsFromHalfAStepOutside) {
  QuantizedLinear q;
  q.N = 1;
  q.K = 2;
  q.codes = tensor_of(Dtype::kU8, {1, 2}, std::vector<uint8_t>{0, 0});
  q.scheme = integer_scheme(4, kAll, true, Dtype::kF16);
  q.scale.values = f16_tensor({1}, {0.5F});
  expect_limits(q, -4.25F, 3.75F, 7.5F);  // -8 .. 7 times 0.5
  q.scale.values = f16_tensor({1}, {-0.5F});
  expect_limits(q, -3.75F, 4.25F, 7.5F);
  q.scheme = integer_scheme(4, kAll, false, Dtype::kF16);
  q.scale.values = f16_tensor({1}, {0.5F});
  q.zero.values = tensor_of(Dtype::kU8, {1}, std::vector<uint8_t>{3});
  expect_limits(q, -1.75F, 6.25F, 7.5F);  // -3 .. 12 times 0.5

  q.scheme.zero.reset();
  q.zero = {};
  q.scheme.grid = {.kind = Grid::Kind::kTable, .bits = 4, .name = "e2m1", .table = e2m1_table()};
  expect_limits(q, -3.5F, 3.5F, 6.F);  // 4 and 6 times 0.5
  q.scheme.grid.table[0] = std::numeric_limits<float>::quiet_NaN();
  expect_limits(q, -3.5F, 3.5F, 6.F);

  q.scheme = kmeans_scheme(2);
  q.scale = {};
  q.codebooks = f32_tensor({1, 4}, {3.F, -1.F, 1.F, 1.F});
  expect_limits(q, -2.F, 4.F, 4.F);
  q.codebooks = f32_tensor({1, 4}, {1.F, 1.F, 1.F, 1.F});
  expect_limits(q, 1.F, 1.F, 0.F);
}

TEST(Comparison, IsByBlockWhereverItLies) {
  Sequence sequence(3);
  for (const Blocking& blocking :
       {Blocking{.rows = 1, .columns = 8}, Blocking{.rows = 3, .columns = 10},
        Blocking{.rows = kAll, .columns = 7}, Blocking{.columns = 9, .flattened = true}}) {
    for (const bool moved : {false, true}) {
      if (moved && blocking.flattened) continue;
      Scheme scheme = integer_scheme(3, kAll, false, Dtype::kF16);
      scheme.blocking = blocking;
      QuantizedLinear q = random_layer(scheme, 7, 30);
      const int64_t groups = blocking.flattened ? 0 : group_count(blocking, 30);
      for (int32_t k = 0; moved && k < 30; ++k) {
        q.group_of_column.push_back(k * 7 % static_cast<int32_t>(groups));
      }
      Matrix W(7, 30);
      int64_t expected = 0;
      for (int64_t n = 0; n < 7; ++n) {
        for (int64_t k = 0; k < 30; ++k) {
          W(n, k) = .2F * sequence.uniform();
          const BlockParameters block = block_parameters(q, n, k);
          const double steps = static_cast<double>(W(n, k)) / static_cast<double>(block.scale);
          expected += std::abs(steps + block.zero - 3.5) > 4. + 7. / 512. ? 1 : 0;
        }
      }
      EXPECT_GT(expected, 0);
      EXPECT_LT(expected, W.size());
      const Eigen::MatrixXd error = W.cast<double>() - dequantize(q).cast<double>();
      const Comparison found = compare(W, q);
      EXPECT_NEAR(found.error / error.squaredNorm(), 1., 1e-12) << describe(scheme);
      EXPECT_NEAR(found.weights / W.cast<double>().squaredNorm(), 1., 1e-12);
      EXPECT_EQ(compare(W, q).clipped, expected) << describe(scheme);
    }
  }
}

TEST(Comparison, HoldsWhereSquaresAreNoFloats) {
  Sequence sequence(4);
  Matrix W(3, 70);
  for (int64_t i = 0; i < W.size(); ++i) W.data()[i] = sequence.uniform();
  const Scheme scheme = integer_scheme(4, kAll, true, Dtype::kF32);
  const double usual =
      relative_error(W, quantize_to_nearest(W, scheme, range_rules().front(), {}, "layer").q);
  for (const float size : {0x1p-70F, 0x1p-40F, 0x1p40F, 0x1p100F}) {
    const Matrix scaled = size * W;
    const QuantizedLinear q =
        quantize_to_nearest(scaled, scheme, range_rules().front(), {}, "layer").q;
    EXPECT_NEAR(relative_error(scaled, q) / usual, 1., 1e-12) << size;
    EXPECT_EQ(relative_error(dequantize(q), q), 0.) << size;
  }
}

TEST(Comparison, FindsNothingClippedByRoundingToTheExtremes) {
  Sequence sequence(5);
  Matrix W(20, 300);
  for (int64_t i = 0; i < W.size(); ++i) W.data()[i] = sequence.uniform();
  for (const bool symmetric : {true, false}) {
    const Scheme scheme = integer_scheme(4, 32, symmetric, Dtype::kF32);
    const RoundedLinear rounded =
        quantize_to_nearest(W, scheme, range_rules().front(), {}, "layer");
    EXPECT_EQ(compare(W, rounded.q).clipped, 0);
    EXPECT_GT(compare(1.5F * W, rounded.q).clipped, W.size() / 5);
  }
}

}  // namespace
}  // namespace nibble
