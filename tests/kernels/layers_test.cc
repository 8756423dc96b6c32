// norm, activation, rope and cross_entropy against float64.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "kernels/activation.h"
#include "kernels/cross_entropy.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr double kRounding = 0x1p-24;  // of a float

TEST(RmsNorm, DividesEachSegmentByItsRootMeanSquare) {
  srand(1);
  const Matrix x = Matrix::Random(5, 96) * 3.f;
  const Vector weight = Vector::Random(32);
  Matrix y(5, 96);
  rms_norm(x, weight, 1e-3f, y);
  for (int64_t t = 0; t < 5; ++t) {
    for (int64_t c = 0; c < 96; ++c) {
      const double mean_square =
          x.row(t).segment(c / 32 * 32, 32).cast<double>().squaredNorm() / 32;
      const double expected = x(t, c) / std::sqrt(mean_square + 1e-3f) * weight[c % 32];
      // Half the relative error of a sum of 32 squares, and five roundings.
      EXPECT_NEAR(y(t, c), expected, (16 + 5) * kRounding * std::abs(expected));
    }
  }
  Matrix in_place = x;
  rms_norm(in_place, weight, 1e-3f, in_place);
  EXPECT_EQ(in_place, y);
}

TEST(LayerNorm, CentresScalesAndShifts) {
  srand(2);
  const int64_t n = 77;
  const Matrix x = (Matrix::Random(4, n).array() + 10.f).matrix();
  const Vector weight = Vector::Random(n);
  const Vector bias = Vector::Random(n);
  Matrix y(4, n);
  layer_norm(x, weight, bias, 1e-5f, y);
  for (int64_t t = 0; t < 4; ++t) {
    const Eigen::RowVectorXd row = x.row(t).cast<double>();
    const double mean = row.mean();
    const double deviation = std::sqrt((row.array() - mean).square().mean() + 1e-5f);
    for (int64_t c = 0; c < n; ++c) {
      const double expected = (row[c] - mean) / deviation * weight[c] + bias[c];
      // The mean of values near 10 is off by up to (n + 3) units of 11.
      EXPECT_NEAR(y(t, c), expected, static_cast<double>(n + 3) * kRounding * 11 / deviation * 2);
    }
  }
}

TEST(GeluErf, IsTheGaussianForm) {
  const Matrix x = Eigen::RowVectorXf::LinSpaced(401, -10.f, 10.f);
  Matrix y(1, 401);
  gelu_erf(x, Matrix(), y);
  const Matrix factor = Matrix::Constant(1, 401, 2.f);
  Matrix gated(1, 401);
  gelu_erf(x, factor, gated);
  for (int64_t i = 0; i < 401; ++i) {
    const double v = x(0, i);
    // 1 + erf cancels below 0: an absolute error of a unit times |v|.
    EXPECT_NEAR(y(0, i), v / 2 * (1 + std::erf(v / std::sqrt(2.0))),
                4 * kRounding * (1 + std::abs(v)));
    EXPECT_EQ(gated(0, i), 2 * y(0, i));
  }
}

TEST(Rope, TableHoldsCosinesAndSinesOfPositionTimesFrequency) {
  const std::vector<float> frequencies = {1.f, 0.31622776f, 0.01f, 1e-5f};
  for (const int64_t first : {0, 5, 131072}) {
    const RopeTable table = rope_table(frequencies, first, 600);
    for (int64_t p = 0; p < 600; ++p) {
      for (int64_t i = 0; i < 4; ++i) {
        const double angle = static_cast<double>(first + p) * static_cast<double>(frequencies[i]);
        ASSERT_NEAR(table.cosine(p, i), std::cos(angle), kRounding) << first + p;
        ASSERT_NEAR(table.sine(p, i), std::sin(angle), kRounding) << first + p;
      }
    }
  }
}

TEST(Rope, PairsColumnsHalfAHeadApart) {
  const RopeTable table = rope_table(std::vector<float>{0.5f, 0.25f}, 0, 10);
  Matrix x(2, 8);  // two heads of four
  x << 1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -3, -4, -5, -6, -7, -8;
  const Matrix before = x;
  rope(table, 3, x);
  for (int64_t t = 0; t < 2; ++t) {
    for (const int64_t head : {0, 4}) {
      for (int64_t i = 0; i < 2; ++i) {
        const double angle = static_cast<double>(3 + t) * (i == 0 ? 0.5 : 0.25);
        const double a = before(t, head + i);
        const double b = before(t, head + i + 2);
        EXPECT_NEAR(x(t, head + i), a * std::cos(angle) - b * std::sin(angle), 32 * kRounding);
        EXPECT_NEAR(x(t, head + i + 2), b * std::cos(angle) + a * std::sin(angle), 32 * kRounding);
      }
    }
  }
}

// 300 rows and 1100 entries: two blocks of rows, three of the vocabulary, each with a rest.
struct Head {
  Head() {
    srand(3);
    x = Matrix::Random(300, 24) * 4.f;
    w = Matrix::Random(1100, 24);
    panels = make_panels(w);
    for (int32_t t = 0; t < 300; ++t) targets.push_back(t % 7 == 3 ? -1 : (t * 37) % 1100);
  }
  std::vector<double> run() const {
    const auto rows = [&](std::span<const int64_t> indexes) {
      Matrix out(std::ssize(indexes), x.cols());
      for (int64_t i = 0; i < out.rows(); ++i) out.row(i) = x.row(indexes[i]);
      return out;
    };
    const auto logits = [&](const Matrix& inputs, int64_t first, MatrixRef out) {
      matmul_columns(inputs, panels, first, out);
    };
    return cross_entropy(w.rows(), targets, rows, logits);
  }
  Matrix x, w;
  PanelMatrix panels;
  std::vector<int32_t> targets;
};

TEST(CrossEntropy, EqualsFloat64AndSkipsNegativeTargets) {
  const Head head;
  const std::vector<double> got = head.run();
  ASSERT_EQ(got.size(), head.targets.size());
  const Eigen::MatrixXd logits = head.x.cast<double>() * head.w.cast<double>().transpose();
  for (int64_t t = 0; t < logits.rows(); ++t) {
    if (head.targets[t] < 0) {
      EXPECT_EQ(got[t], 0);
      continue;
    }
    const double largest = logits.row(t).maxCoeff();
    const double expected = largest + std::log((logits.row(t).array() - largest).exp().sum()) -
                            logits(t, head.targets[t]);
    // Logits of sums of 24 products up to 4; sums of exponentials with 1100 terms.
    EXPECT_NEAR(got[t], expected, 2 * 25 * kRounding * 24 * 4 + 1100 * kRounding) << t;
  }
}

TEST(CrossEntropy, TheThreadsDoNotMatter) {
  const Head head;
  const std::vector<double> expected = head.run();
  const int before = omp_get_max_threads();
  for (const int threads : {1, 2, 5}) {
    omp_set_num_threads(threads);
    EXPECT_EQ(head.run(), expected) << threads;
  }
  omp_set_num_threads(before);
}

TEST(CrossEntropy, OfNoScoredRowIsZero) {
  Head head;
  std::ranges::fill(head.targets, -1);
  EXPECT_EQ(head.run(), std::vector<double>(300, 0.0));
}

}  // namespace
}  // namespace nibble
