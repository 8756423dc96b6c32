#include "calibration/weight_ranges.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "calibration/histogram.h"
#include "calibration/ranges.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

// Students' t of 4 degrees: some far out.
Matrix heavy_tailed(int64_t N, int64_t K, uint32_t seed) {
  std::mt19937 generator(seed);
  std::student_t_distribution<float> values(4.F);
  Matrix W(N, K);
  for (int64_t i = 0; i < W.size(); ++i) W.data()[i] = values(generator);
  return W;
}

double squared_error(const Matrix& W, const Matrix& of, const Scheme& scheme) {
  const QuantizedLinear q = quantize_to_nearest(of, scheme, range_rules().front(), {}, "m").q;
  return (dequantize(q) - W).cast<double>().squaredNorm();
}

TEST(WeightRanges, EveryBlockIsCutAtItsOwnRange) {
  const Matrix W = heavy_tailed(6, 70, 1);
  for (const bool symmetric : {true, false}) {
    for (const RangeMethodRow& row : range_methods()) {
      const Scheme scheme = integer_scheme(4, 32, symmetric, Dtype::kF32);  // the last is ragged
      const Matrix cut = cut_to_ranges(W, scheme, row.method, 97.);
      for (int64_t n = 0; n < 6; ++n) {
        for (int64_t k = 0; k < 70; k += 32) {
          const Matrix block = W.block(n, k, 1, std::min<int64_t>(32, 70 - k));
          Histogram histogram;
          histogram.add(block, "block");
          const Range range = row.find(histogram.coarse(64),
                                       {.bits = 4, .symmetric = symmetric, .percentile = 97.});
          for (int64_t i = 0; i < block.size(); ++i) {
            EXPECT_EQ(cut(n, k + i), std::clamp(block(0, i), range.low, range.high))
                << row.name << " " << n << " " << k + i;
          }
        }
      }
    }
  }
}

TEST(WeightRanges, RowsAreTheBatchesOfATensor) {
  Matrix W = Matrix::Constant(3, 8, 1.F);
  W(0, 0) = 2.F;
  W(2, 5) = -11.F;
  Scheme scheme = integer_scheme(8, kAll, true, Dtype::kF32);
  scheme.blocking.rows = kAll;
  const Matrix cut = cut_to_ranges(W, scheme, RangeMethod::kMovingAverage, 99.);
  // Largest 2, 0.9 * 2 + 0.1 * 1 = 1.9, 0.9 * 1.9 + 0.1 = 1.81; smallest 1, 1, 0.9 - 1.1 = -0.2.
  EXPECT_FLOAT_EQ(cut(0, 0), 1.81F);
  EXPECT_FLOAT_EQ(cut(2, 5), -1.81F);
  EXPECT_EQ(cut(1, 1), 1.F);
}

TEST(WeightRanges, TheRangeOfLeastSquaresHasALowerErrorThanMinMax) {
  const Matrix W = heavy_tailed(16, 512, 2);
  for (const int bits : {2, 3, 4}) {
    for (const bool symmetric : {true, false}) {
      const Scheme scheme = integer_scheme(bits, 128, symmetric, Dtype::kF32);
      const double whole = squared_error(W, W, scheme);
      const double cut = squared_error(W, cut_to_ranges(W, scheme, RangeMethod::kMse, 99.), scheme);
      EXPECT_LT(cut, 0.95 * whole) << bits << " bits";
      EXPECT_EQ(cut_to_ranges(W, scheme, RangeMethod::kMinMax, 99.), W);
    }
  }
}

// No other range of a fine sweep does better than the one found, but for a bin's width.
TEST(WeightRanges, NoOtherRangeIsMuchBetter) {
  const Matrix W = heavy_tailed(1, 400, 3);
  const Scheme scheme = integer_scheme(3, kAll, true, Dtype::kF32);
  const double found = squared_error(W, cut_to_ranges(W, scheme, RangeMethod::kMse, 99.), scheme);
  double least = std::numeric_limits<double>::infinity();
  const float largest = W.cwiseAbs().maxCoeff();
  for (int step = 1; step <= 1000; ++step) {
    const float end = largest * static_cast<float>(step) / 1000.F;
    least = std::min(least, squared_error(W, W.cwiseMax(-end).cwiseMin(end), scheme));
  }
  EXPECT_LE(found, 1.02 * least);
}

TEST(WeightRanges, ZerosAndWhatIsNotFiniteComeBack) {
  Matrix W = Matrix::Zero(2, 64);
  const Scheme scheme = integer_scheme(4, 32, true, Dtype::kF32);
  EXPECT_EQ(cut_to_ranges(W, scheme, RangeMethod::kEntropy, 99.), W);
  W(1, 40) = std::numeric_limits<float>::quiet_NaN();
  W(0, 3) = 5.F;
  const Matrix cut = cut_to_ranges(W, scheme, RangeMethod::kPercentile, 60.);
  EXPECT_TRUE(std::isnan(cut(1, 40)));
  EXPECT_EQ(cut(0, 3), 5.F);
}

}  // namespace
}  // namespace nibble
