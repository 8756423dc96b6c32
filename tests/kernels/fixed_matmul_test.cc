#include "kernels/fixed_matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/fixed_paths.h"
#include "kernels/matmul.h"
#include "kernels/row_paths.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr double kMostSum = 2147483647.;  // of an int32

struct FixedGroup {
  float scale = 0;
  std::array<int16_t, kFixedGroup> q{};
};

FixedGroup rounded(const FixedPath& path, const std::vector<float>& x) {
  FixedGroup group;
  group.scale = path.round_group(x.data(), std::ssize(x), group.q.data());
  return group;
}

// Groups in which something is extreme, by name.
std::vector<std::pair<std::string, std::vector<float>>> groups() {
  std::vector<std::pair<std::string, std::vector<float>>> result;
  const auto add = [&](const std::string& name, int64_t n, const auto& value) {
    std::vector<float> x(static_cast<size_t>(n));
    for (int64_t k = 0; k < n; ++k) x[static_cast<size_t>(k)] = value(k);
    result.emplace_back(name, x);
  };
  const auto noise = [](int64_t k) { return std::sin(static_cast<float>(k * k + 1)); };
  add("noise", kFixedGroup, noise);
  add("one value", 1, [](int64_t) { return -3.F; });
  add("ragged", 77, noise);
  add("equal values", kFixedGroup, [](int64_t) { return 0.1F; });
  add("alternating", kFixedGroup, [](int64_t k) { return k % 2 == 0 ? 7.F : -7.F; });
  add("an outlier", kFixedGroup, [&](int64_t k) { return k == 5 ? 1000.F : noise(k); });
  add("zero", kFixedGroup, [](int64_t) { return 0.F; });
  add("squares that vanish", kFixedGroup, [&](int64_t k) { return 1e-25F * noise(k); });
  add("squares beyond a float", kFixedGroup, [&](int64_t k) { return 3e38F * noise(k); });
  return result;
}

double norm_of(const FixedGroup& group) {
  double squares = 0;
  for (const int16_t q : group.q) squares += 1. * q * q;
  return std::sqrt(squares);
}

TEST(FixedGroups, NoSumOfProductsLeavesThirtyTwoBits) {
  for (const auto& [name, x] : groups()) {
    const FixedGroup group = rounded(kScalarFixed, x);
    EXPECT_LE(norm_of(group) * norm_of(group), kMostSum) << name;
  }
}

TEST(FixedGroups, ValuesAreRoundedToTheNearestMultipleOfTheScale) {
  for (const auto& [name, x] : groups()) {
    const FixedGroup group = rounded(kScalarFixed, x);
    for (size_t k = 0; k < group.q.size(); ++k) {
      const float value = k < x.size() ? x[k] : 0.F;
      ASSERT_NEAR(1. * group.q[k] * group.scale, value, 0.5001 * group.scale) << name << k;
    }
  }
}

// A coarser scale would do for the bound, and lose precision.
TEST(FixedGroups, TheBoundIsUsedUp) {
  for (const auto& [name, x] : groups()) {
    if (name == "zero" || name.starts_with("squares")) continue;
    const FixedGroup group = rounded(kScalarFixed, x);
    int32_t largest = 0;
    for (const int16_t q : group.q) largest = std::max(largest, std::abs(int32_t{q}));
    EXPECT_TRUE(norm_of(group) > 46300. || largest == 32766) << name;
  }
}

TEST(FixedGroups, GaussianValuesAreRoundedBy7e5) {
  srand(1);
  const Matrix x = Matrix::Random(12, kFixedGroup).colwise().sum();  // nearly normal
  const FixedGroup group =
      rounded(kScalarFixed, std::vector<float>(x.data(), x.data() + kFixedGroup));
  double error = 0;
  for (int64_t k = 0; k < kFixedGroup; ++k) {
    error += std::pow(1. * group.q[static_cast<size_t>(k)] * group.scale - x(0, k), 2);
  }
  EXPECT_LT(std::sqrt(error) / x.norm(), 9e-5);
}

TEST(FixedGroups, DenormalValuesAreZeroAndWhatIsNotFiniteStaysSo) {
  for (const FixedPath* path : fixed_paths()) {
    const FixedGroup tiny = rounded(*path, {1e-42F, -1e-42F});
    EXPECT_EQ(tiny.q, (std::array<int16_t, kFixedGroup>{})) << path->name;
    EXPECT_LE(tiny.scale, 1e-38F);
    const float infinity = std::numeric_limits<float>::infinity();
    EXPECT_FALSE(std::isfinite(rounded(*path, {1.F, infinity}).scale)) << path->name;
    EXPECT_FALSE(std::isfinite(rounded(*path, {-infinity, 1.F}).scale)) << path->name;
    EXPECT_TRUE(std::isnan(rounded(*path, {1.F, std::nanf(""), 2.F}).scale)) << path->name;
  }
}

TEST(FixedGroups, AllPathsRoundToTheSameBits) {
  for (const auto& [name, x] : groups()) {
    const FixedGroup expected = rounded(kScalarFixed, x);
    for (const FixedPath* path : fixed_paths()) {
      const FixedGroup group = rounded(*path, x);
      EXPECT_EQ(group.scale, expected.scale) << name << ", " << path->name;
      EXPECT_EQ(group.q, expected.q) << name << ", " << path->name;
    }
  }
}

// Every pair of groups, as inputs and as weights, many rows at once.
TEST(FixedPaths, SumsAreExact) {
  const auto cases = groups();
  const auto rows = std::ssize(cases);
  for (const FixedPath* path : fixed_paths()) {
    for (const int64_t times : {1, 2, 4}) {
      std::vector<int16_t> x;
      std::vector<int16_t> w(kFixedGroup * kPanelWidth, 0);
      for (int64_t t = 0; t < times * rows; ++t) {
        const FixedGroup group = rounded(*path, cases[static_cast<size_t>(t % rows)].second);
        x.insert(x.end(), group.q.begin(), group.q.end());
      }
      const auto weights_of = [&](int64_t n) {
        return rounded(*path, cases[static_cast<size_t>(n % rows)].second);
      };
      for (int64_t n = 0; n < kPanelWidth; ++n) {
        const FixedGroup group = weights_of(n);
        for (int64_t k = 0; k < kFixedGroup; ++k) {
          w[static_cast<size_t>((k / 2 * kPanelWidth + n) * 2 + k % 2)] =
              group.q[static_cast<size_t>(k)];
        }
      }
      const std::vector<float> ones(static_cast<size_t>(std::max(times * rows, kPanelWidth)), 1.F);
      Matrix y = Matrix::Constant(times * rows, kPanelWidth + 3, 1.F);
      path->multiply({.x = x.data(),
                      .x_scale = ones.data(),
                      .w = w.data(),
                      .w_scale = ones.data(),
                      .y = y.data(),
                      .y_stride = y.outerStride(),
                      .rows = y.rows(),
                      .pairs = kFixedGroup / 2,
                      .accumulate = false});
      for (int64_t t = 0; t < y.rows(); ++t) {
        for (int64_t n = 0; n < kPanelWidth; ++n) {
          const FixedGroup group = weights_of(n);
          int64_t sum = 0;
          for (int64_t k = 0; k < kFixedGroup; ++k) {
            sum += int64_t{x[static_cast<size_t>(t * kFixedGroup + k)]} *
                   group.q[static_cast<size_t>(k)];
          }
          ASSERT_EQ(y(t, n), static_cast<float>(sum)) << path->name << t << ", " << n;
        }
        EXPECT_EQ(y(t, kPanelWidth), 1.F) << "beyond the panel";
      }
    }
  }
}

using Shape = std::tuple<int64_t, int64_t, int64_t>;  // T, N, K

class FixedMatmul : public testing::TestWithParam<Shape> {};

INSTANTIATE_TEST_SUITE_P(Shapes, FixedMatmul,
                         testing::Values(Shape(1, 1, 1), Shape(1, 300, 64), Shape(3, 33, 385),
                                         Shape(128, 64, 384), Shape(129, 31, 1001),
                                         Shape(300, 600, 96), Shape(20, 40, 1024),
                                         Shape(20, 256, 1300)));

// By the bound of the rounding, element by element, and twenty times closer over all.
TEST_P(FixedMatmul, EqualsFloat64AsFarAsRoundedFactorsCan) {
  const auto [T, N, K] = GetParam();
  srand(1);
  const Matrix x = Matrix::Random(T, K);
  const Matrix w = Matrix::Random(N, K);
  const Matrix start = Matrix::Random(T, N);
  Matrix y = Matrix::Constant(T, N, 1e9F);
  const PanelMatrix panels = make_panels(w, Products::kFixed);
  EXPECT_TRUE(panels.is_fixed());
  matmul(x, panels, y);
  Matrix added = start;
  matmul(x, panels, added, Accumulate::kYes);
  const Eigen::MatrixXd exact = x.cast<double>() * w.cast<double>().transpose();
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t n = 0; n < N; ++n) {
      double bound = 1e-6 * (1 + std::abs(exact(t, n)));
      for (int64_t k = 0; k < K; k += kFixedGroup) {
        const int64_t depth = std::min(kFixedGroup, K - k);
        const double norms =
            1. * x.row(t).segment(k, depth).norm() * w.row(n).segment(k, depth).norm();
        bound += norms * std::sqrt(static_cast<double>(depth)) / 32766. * 1.01;
      }
      ASSERT_NEAR(y(t, n), exact(t, n), bound) << t << ", " << n;
      ASSERT_NEAR(added(t, n) - start(t, n), exact(t, n), bound + 1e-5) << t << ", " << n;
    }
  }
  EXPECT_LT((y.cast<double>() - exact).norm(), 2e-4 * (exact.norm() + 1e-3));
}

// Factors that are made piece by piece are those made at once.
TEST(FixedFactors, PiecesGiveTheWholeProduct) {
  srand(6);
  const Matrix x = Matrix::Random(150, 400);
  const Matrix w = Matrix::Random(70, 400);
  const PanelMatrix expected = make_panels(w, Products::kFixed);
  PanelMatrix pieces = make_fixed_panels(70, 400);
  for (const auto& [first, columns] :
       {std::pair(256, 144), std::pair(0, 128), std::pair(128, 128)}) {
    const Matrix part = w.middleCols(first, columns).transpose();
    set_fixed_columns(part, first, pieces);
  }
  EXPECT_TRUE(std::ranges::equal(pieces.values.bytes(), expected.values.bytes()));
  EXPECT_TRUE(std::ranges::equal(pieces.scales.bytes(), expected.scales.bytes()));
  Matrix all(150, 70);
  matmul(x, expected, all);
  Matrix some(140, 70);
  multiply_fixed(FixedRows(x), 7, pieces, some);
  EXPECT_EQ(some, all.middleRows(7, 140));
}

}  // namespace
}  // namespace nibble
