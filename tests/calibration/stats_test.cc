#include "calibration/stats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>

#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

Matrix random_inputs(int64_t T, int64_t K, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Matrix X(T, K);
  for (int64_t i = 0; i < X.size(); ++i) X.data()[i] = normal(random);
  return X;
}

InputStatistics statistics_of(const Matrix& X) {
  InputSums sums(X.cols());
  sums.add(X, "here");
  return std::move(sums).finish();
}

void expect_near(const InputStatistics& got, const InputStatistics& expected, float tolerance) {
  EXPECT_EQ(got.tokens, expected.tokens);
  EXPECT_LE((got.H - expected.H).cwiseAbs().maxCoeff(), tolerance);
  EXPECT_LE((got.mean_absolute - expected.mean_absolute).cwiseAbs().maxCoeff(), tolerance);
  EXPECT_LE((got.largest - expected.largest).cwiseAbs().maxCoeff(), tolerance);
}

TEST(InputSums, AreMeansOverTokensInFloat64) {
  const Matrix X = random_inputs(300, 70, 1);
  InputSums sums(70);
  sums.add(X.topRows(100), "here");
  sums.add(X.bottomRows(200), "here");
  const InputStatistics statistics = std::move(sums).finish();
  const Eigen::MatrixXd wide = X.cast<double>();
  const Eigen::MatrixXd H = wide.transpose() * wide / 300.;
  // A sum of 300 products in float: each addition rounds to 2^-24 of a sum below 300 * |x|^2.
  EXPECT_LE((statistics.H.cast<double>() - H).cwiseAbs().maxCoeff(), 300 * std::ldexp(1., -24));
  EXPECT_EQ(statistics.H, statistics.H.transpose());
  EXPECT_EQ(statistics.tokens, 300);
  EXPECT_EQ(statistics.largest, Vector(X.cwiseAbs().colwise().maxCoeff().transpose()));
  const Eigen::VectorXd mean = wide.cwiseAbs().colwise().mean().transpose();
  EXPECT_LE((statistics.mean_absolute.cast<double>() - mean).cwiseAbs().maxCoeff(), 1e-6);
}

TEST(InputSums, NanNamesTokenAndColumn) {
  Matrix X = random_inputs(4, 8, 2);
  InputSums sums(8);
  sums.add(X, "block 3");
  X(2, 5) = std::numeric_limits<float>::quiet_NaN();
  try {
    sums.add(X, "block 3");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.where(), "block 3");
    EXPECT_NE(error.problem().find("token 6, column 5"), std::string::npos) << error.problem();
  }
}

TEST(InputStatistics, MergedAreThoseOfAllTokens) {
  const Matrix X = random_inputs(96, 20, 3);
  InputStatistics merged = statistics_of(X.topRows(32));
  merge(merged, statistics_of(X.bottomRows(64)));
  expect_near(merged, statistics_of(X), 1e-6F);
}

TEST(InputStatistics, DividedAreThoseOfDividedInputs) {
  Matrix X = random_inputs(50, 12, 4);
  InputStatistics divided = statistics_of(X);
  const Vector scales = Vector::LinSpaced(12, 0.5F, 3.F);
  divide_inputs(divided, scales);
  X = X * scales.cwiseInverse().asDiagonal();
  expect_near(divided, statistics_of(X), 1e-5F);
}

}  // namespace
}  // namespace nibble
