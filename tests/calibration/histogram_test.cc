#include "calibration/histogram.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

using testing::HasSubstr;

Matrix random_values(int64_t T, int64_t K, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Matrix X(T, K);
  for (int64_t i = 0; i < X.size(); ++i)
    X.data()[i] = std::exp(normal(generator)) * normal(generator);
  return X;
}

// Every value lies in the bin that counts it.
void expect_counts(const Histogram& histogram, const std::vector<float>& values) {
  ASSERT_EQ(histogram.total, std::ssize(values));
  ASSERT_EQ(std::accumulate(histogram.counts.begin(), histogram.counts.end(), int64_t{0}),
            histogram.total);
  for (int64_t i = 0; i < Histogram::kBins; ++i) {
    const double low = histogram.edge(i);
    const double high = histogram.edge(i + 1);
    ASSERT_EQ(high - low, histogram.width());
    const auto expected =
        std::count_if(values.begin(), values.end(), [&](float x) { return x >= low && x < high; });
    ASSERT_EQ(histogram.counts[static_cast<size_t>(i)], expected) << "bin " << i;
  }
}

void expect_equal(const Histogram& a, const Histogram& b) {
  EXPECT_EQ(a.exponent, b.exponent);
  EXPECT_EQ(a.first, b.first);
  EXPECT_EQ(a.counts, b.counts);
  EXPECT_EQ(a.total, b.total);
  EXPECT_EQ(a.smallest, b.smallest);
  EXPECT_EQ(a.largest, b.largest);
}

TEST(Histogram, TwoAddUpToThatOfAllValues) {
  for (const float size : {1.f, 37.5f, 1e-3f}) {
    const Matrix A = random_values(30, 70, 11);
    const Matrix B = size * random_values(20, 70, 12);
    Histogram whole;
    whole.add(A, "A");
    whole.add(B, "B");
    Histogram sum;
    sum.add(Histogram{});
    EXPECT_EQ(sum.total, 0);
    sum.add(A, "A");
    Histogram other;
    other.add(B, "B");
    sum.add(other);
    expect_equal(sum, whole);
    const float share = 20.f / 50.f;
    EXPECT_FLOAT_EQ(sum.moving_largest,
                    (1.f - share) * A.maxCoeff() + share * other.moving_largest);
    Histogram copy;
    copy.add(other);
    expect_equal(copy, other);
  }
}

TEST(Histogram, CountsValuesWhereTheyLie) {
  const Matrix X = random_values(40, 100, 1);
  Histogram histogram;
  histogram.add(X, "x");
  const std::vector<float> values(X.data(), X.data() + X.size());
  expect_counts(histogram, values);
  EXPECT_EQ(histogram.smallest, X.minCoeff());
  EXPECT_EQ(histogram.largest, X.maxCoeff());
  // No narrower bins would do: at least half of them lie between the extremes.
  const double used = (X.maxCoeff() - X.minCoeff()) / histogram.width();
  EXPECT_GE(used, Histogram::kBins / 2 - 1);
  EXPECT_LE(used, Histogram::kBins);
}

TEST(Histogram, DependsNeitherOnBatchesNorOnTheirOrderNorOnThreads) {
  Matrix X = random_values(600, 300, 2);
  for (int64_t t = 0; t < 600; ++t) X.row(t) *= std::ldexp(1.F, static_cast<int>(t / 40));
  X.topRows(5).setZero();
  Histogram whole;
  whole.add(X, "x");
  const int threads = omp_get_max_threads();
  for (const int64_t rows : {1, 7, 200}) {
    omp_set_num_threads(rows == 7 ? 1 : 3);
    Histogram forward;
    Histogram backward;
    for (int64_t t = 0; t < 600; t += rows) {
      const int64_t count = std::min(rows, 600 - t);
      forward.add(X.middleRows(t, count), "x");
      backward.add(X.middleRows(600 - t - count, count), "x");
    }
    expect_equal(forward, whole);
    expect_equal(backward, whole);
  }
  omp_set_num_threads(threads);
}

TEST(Histogram, TakesExtremeFloats) {
  const float huge = std::numeric_limits<float>::max();
  const float tiny = std::numeric_limits<float>::denorm_min();
  const std::vector<std::vector<float>> sets = {{0.F, 0.F, -0.F},
                                                {tiny, 0.F, -tiny},
                                                {huge, -huge, tiny, -tiny, 0.F},
                                                {1.F},
                                                {-3.F, -3.F},
                                                {1.F, std::nextafter(1.F, 2.F)},
                                                {-1e-30F, 1000.F, 0.F},
                                                {1e30F, tiny}};
  for (const auto& set : sets) {
    Histogram histogram;
    for (const float value : set) histogram.add(Matrix::Constant(1, 1, value), "x");
    expect_counts(histogram, set);
    Histogram whole;
    whole.add(ConstMatrixMap(set.data(), 1, std::ssize(set)), "x");
    expect_equal(histogram, whole);
  }
}

TEST(Histogram, MovingAveragesFollowBatches) {
  Histogram histogram;
  const std::vector<std::pair<float, float>> batches = {{-1.F, 2.F}, {-3.F, 1.F}, {0.F, 8.F}};
  for (const auto& [low, high] : batches) {
    Matrix X(1, 3);
    X << high, low, (low + high) / 2.F;
    histogram.add(X, "x");
  }
  EXPECT_FLOAT_EQ(histogram.moving_smallest, .9F * (.9F * -1.F + .1F * -3.F) + .1F * 0.F);
  EXPECT_FLOAT_EQ(histogram.moving_largest, .9F * (.9F * 2.F + .1F * 1.F) + .1F * 8.F);
  histogram.add(Matrix(0, 3), "x");  // nothing
  EXPECT_EQ(histogram.total, 9);
}

TEST(Histogram, CoarseBinsAreUnionsOfTheFineOnes) {
  Histogram fine;
  Matrix X(1, 900);
  for (int64_t i = 0; i < 900; ++i) X(0, i) = static_cast<float>(i * i % 701) * 0.01F - 3.F;
  fine.add(X, "x");
  for (const int64_t bins : {2, 7, 64, 256, 2048}) {
    const Histogram coarse = fine.coarse(bins);
    ASSERT_EQ(std::ssize(coarse.counts), bins);
    EXPECT_LE(coarse.edge(0), -3.F);
    EXPECT_GT(coarse.edge(bins), 4.F - 0.01F);
    EXPECT_EQ(coarse.total, 900);
    for (int64_t i = 0; i < bins; ++i) {
      const auto inside = [&](float x) { return coarse.edge(i) <= x && x < coarse.edge(i + 1); };
      EXPECT_EQ(coarse.counts[static_cast<size_t>(i)],
                std::count_if(X.data(), X.data() + 900, inside))
          << bins << " bins, " << i;
    }
  }
}

TEST(Histogram, NanAndInfinityAreNamed) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    Matrix X = random_values(6, 8, 3);
    X(4, 2) = bad;
    Histogram histogram;
    try {
      histogram.add(X, "layers.0: input");
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("layers.0: input: "));
      EXPECT_THAT(error.what(), HasSubstr(std::isnan(bad) ? "NaN at row 4, column 2"
                                                          : "infinity at row 4, column 2"));
    }
    EXPECT_EQ(histogram.total, 0);
  }
}

}  // namespace
}  // namespace nibble
