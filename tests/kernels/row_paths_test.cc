// The functions of a row and the product of a tile, every path that this machine runs, against
// float64.
#include "kernels/row_paths.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "src/tensor/cpu_features.h"

namespace nibble {
namespace {

constexpr double kUnit = 0x1p-24;  // rounding of a float
// Lengths around one and two registers of 8 and 16 floats.
const std::vector<int64_t> kLengths = {0,  1,  7,  8,  9,  15, 16, 17,  31, 32,
                                       33, 47, 48, 63, 64, 65, 96, 127, 300};

std::vector<const RowPath*> paths() {
  std::vector<const RowPath*> all = {&kScalarRows};
  if (cpu_features().avx2) all.push_back(&kAvx2Rows);
  if (cpu_features().avx512) all.push_back(&kAvx512Rows);
  return all;
}

class RowPaths : public testing::TestWithParam<const RowPath*> {
 protected:
  std::vector<float> random(int64_t n, float spread = 1.f) {
    std::normal_distribution<float> normal(0.3f, spread);
    std::vector<float> values(n);
    for (float& value : values) value = normal(engine_);
    return values;
  }
  const RowPath& path() const { return *GetParam(); }

  std::mt19937 engine_{1};
};

INSTANTIATE_TEST_SUITE_P(All, RowPaths, testing::ValuesIn(paths()),
                         [](const auto& row) { return std::string(row.param->name); });

TEST_P(RowPaths, TilesOfEveryHeightAreProducts) {
  for (int64_t rows = 1; rows <= 30; ++rows) {
    for (const int64_t depth : {1, 5, 64, 130}) {
      const int64_t a_stride = depth + 3;
      const int64_t c_stride = kPanelWidth + 5;
      const std::vector<float> a = random(rows * a_stride);
      const std::vector<float> b = random(depth * kPanelWidth);
      for (const bool accumulate : {false, true}) {
        const std::vector<float> before = random(rows * c_stride);
        std::vector<float> c = before;
        path().multiply_tile(
            {a.data(), a_stride, b.data(), c.data(), c_stride, rows, depth, accumulate, b.data()});
        for (int64_t i = 0; i < rows * c_stride; ++i) {
          const int64_t n = i % c_stride;
          if (n >= kPanelWidth) {
            ASSERT_EQ(c[i], before[i]) << "written beyond the panel";
            continue;
          }
          double sum = accumulate ? before[i] : 0.0;
          double size = std::abs(sum);
          for (int64_t k = 0; k < depth; ++k) {
            const double term =
                static_cast<double>(a[i / c_stride * a_stride + k]) * b[k * kPanelWidth + n];
            sum += term;
            size += std::abs(term);
          }
          // A sum of `depth` rounded products in any order (Higham, 2002, equation 3.5).
          ASSERT_NEAR(c[i], sum, static_cast<double>(depth + 1) * kUnit * size)
              << rows << " rows, depth " << depth << ", element " << i;
        }
      }
    }
  }
}

TEST_P(RowPaths, ARowOfATileDoesNotDependOnTheOthers) {
  const int64_t depth = 100;
  const std::vector<float> a = random(29 * depth);
  const std::vector<float> b = random(depth * kPanelWidth);
  std::vector<float> all(29 * kPanelWidth);
  path().multiply_tile(
      {a.data(), depth, b.data(), all.data(), kPanelWidth, 29, depth, false, b.data()});
  for (int64_t row = 0; row < 29; ++row) {
    std::vector<float> one(kPanelWidth);
    path().multiply_tile({a.data() + row * depth, depth, b.data(), one.data(), kPanelWidth, 1,
                          depth, false, b.data()});
    EXPECT_TRUE(std::equal(one.begin(), one.end(), all.begin() + row * kPanelWidth)) << row;
  }
}

TEST_P(RowPaths, SumsAreSums) {
  for (const int64_t n : kLengths) {
    const std::vector<float> x = random(n);
    const std::vector<float> y = random(n);
    double sum = 0;
    double sum_size = 0;
    double squares = 0;
    double product = 0;
    double product_size = 0;
    for (int64_t i = 0; i < n; ++i) {
      sum += x[i];
      sum_size += std::abs(x[i]);
      squares += std::pow(static_cast<double>(x[i]) - 0.25, 2);
      product += static_cast<double>(x[i]) * y[i];
      product_size += std::abs(static_cast<double>(x[i]) * y[i]);
    }
    const double unit = static_cast<double>(n + 3) * kUnit;
    EXPECT_NEAR(path().sum(x.data(), n), sum, unit * sum_size) << n;
    EXPECT_NEAR(path().sum_squares(x.data(), n, 0.25f), squares, unit * squares) << n;
    EXPECT_NEAR(path().dot(x.data(), y.data(), n), product, unit * product_size) << n;
    EXPECT_EQ(path().max(x.data(), n), n == 0 ? -std::numeric_limits<float>::infinity()
                                              : *std::max_element(x.begin(), x.end()));
  }
}

// y[n] is checked to be left alone.
TEST_P(RowPaths, ElementwiseFunctionsStayInTheirRow) {
  constexpr float kGuard = -77.f;
  for (const int64_t n : kLengths) {
    const std::vector<float> x = random(n);
    const std::vector<float> weight = random(n);
    const std::vector<float> bias = random(n);
    const std::vector<float> before = random(n);
    const auto check = [&](const char* what, const std::function<void(float*)>& run,
                           const std::function<double(int64_t)>& expected) {
      std::vector<float> y = before;
      y.push_back(kGuard);
      run(y.data());
      EXPECT_EQ(y[n], kGuard) << what << " " << n;
      for (int64_t i = 0; i < n; ++i) {
        // Up to four roundings of terms of a few units.
        ASSERT_NEAR(y[i], expected(i), 64 * kUnit) << what << " " << n << " at " << i;
      }
    };
    check(
        "normalize",
        [&](float* y) { path().normalize(x.data(), n, 0.1f, 0.7f, weight.data(), bias.data(), y); },
        [&](int64_t i) { return (x[i] - 0.1) * 0.7 * weight[i] + bias[i]; });
    check(
        "normalize without bias",
        [&](float* y) { path().normalize(x.data(), n, 0.f, 0.7f, weight.data(), nullptr, y); },
        [&](int64_t i) { return x[i] * 0.7 * weight[i]; });
    check(
        "scale", [&](float* y) { path().scale(x.data(), n, 1.5f, y); },
        [&](int64_t i) { return 1.5 * x[i]; });
    check(
        "add", [&](float* y) { path().add(x.data(), n, y); },
        [&](int64_t i) { return static_cast<double>(x[i]) + before[i]; });
    check(
        "add_scaled", [&](float* y) { path().add_scaled(x.data(), n, -0.3f, y); },
        [&](int64_t i) { return before[i] - 0.3 * x[i]; });
  }
}

TEST_P(RowPaths, ExpIsWithinTwoUnitsInTheLastPlace) {
  std::vector<float> x;
  for (double value = -103.9; value < 88.7; value += 0.00037) {
    x.push_back(static_cast<float>(value));
  }
  std::vector<float> y = x;
  path().exp(y.data(), std::ssize(y), 0.f);
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(static_cast<double>(x[i]));
    ASSERT_NEAR(y[i], expected, std::max(4 * kUnit * expected, 0x1p-149)) << "exp(" << x[i] << ")";
  }
}

TEST_P(RowPaths, ExpOfTheExtremes) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> x = {-infinity, -1e30f, -105.f,   0.f,
                          90.f,      1e30f,  infinity, std::numeric_limits<float>::quiet_NaN()};
  path().exp(x.data(), std::ssize(x), 0.f);
  EXPECT_EQ(x[0], 0.f);
  EXPECT_EQ(x[1], 0.f);
  EXPECT_EQ(x[2], 0.f);
  EXPECT_EQ(x[3], 1.f);
  EXPECT_EQ(x[4], infinity);
  EXPECT_EQ(x[5], infinity);
  EXPECT_EQ(x[6], infinity);
  EXPECT_TRUE(std::isnan(x[7]));
}

TEST_P(RowPaths, ExpSubtractsTheShift) {
  for (const int64_t n : kLengths) {
    const std::vector<float> x = random(n, 10.f);
    std::vector<float> y = x;
    double sum = 0;
    const float got = path().exp(y.data(), n, 7.5f);
    for (int64_t i = 0; i < n; ++i) {
      const double expected = std::exp(static_cast<double>(x[i] - 7.5f));
      sum += expected;
      ASSERT_NEAR(y[i], expected, 4 * kUnit * expected);
    }
    EXPECT_NEAR(got, sum, static_cast<double>(n + 5) * kUnit * sum) << n;
    EXPECT_EQ(path().exp_sum(x.data(), n, 7.5f), got) << n;
  }
}

// The argument of exp is rounded: an absolute error of a few units of |u|, which is a relative one
// of the result. Below e^-87 the exponential is no normal float any more.
double activation_tolerance(double u, double value) {
  return (8 + 8 * std::abs(u)) * kUnit * std::abs(value) + 1e-36;
}

TEST_P(RowPaths, SiluAndGelu) {
  std::vector<float> x;
  for (double value = -110; value < 110; value += 0.0107) x.push_back(static_cast<float>(value));
  const std::vector<float> factor = random(std::ssize(x));
  std::vector<float> silu(x.size());
  std::vector<float> gelu(x.size());
  std::vector<float> gated(factor);
  path().silu(x.data(), nullptr, std::ssize(x), silu.data());
  path().gelu_tanh(x.data(), nullptr, std::ssize(x), gelu.data());
  path().silu(x.data(), gated.data(), std::ssize(x), gated.data());  // in place
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = x[i];
    const double expected = v / (1 + std::exp(-v));
    ASSERT_NEAR(silu[i], expected, activation_tolerance(v, expected)) << "silu(" << v << ")";
    ASSERT_NEAR(gated[i], expected * factor[i], activation_tolerance(v, expected * factor[i]));
    const double u = std::sqrt(2 / 3.14159265358979323846) * (v + 0.044715 * v * v * v);
    const double tanh_form = v / (1 + std::exp(-2 * u));
    ASSERT_NEAR(gelu[i], tanh_form, activation_tolerance(2 * u, tanh_form)) << "gelu(" << v << ")";
  }
}

TEST_P(RowPaths, RotationTurnsPairs) {
  for (const int64_t half : {1, 8, 12, 16, 20, 64}) {
    std::vector<float> x = random(2 * half);
    const std::vector<float> before = x;
    std::vector<float> cosine(half);
    std::vector<float> sine(half);
    for (int64_t i = 0; i < half; ++i) {
      cosine[i] = std::cos(0.1f * static_cast<float>(i + 1));
      sine[i] = std::sin(0.1f * static_cast<float>(i + 1));
    }
    path().rotate(x.data(), cosine.data(), sine.data(), half);
    for (int64_t i = 0; i < half; ++i) {
      const double a = before[i];
      const double b = before[half + i];
      EXPECT_NEAR(x[i], a * cosine[i] - b * sine[i], 16 * kUnit);
      EXPECT_NEAR(x[half + i], b * cosine[i] + a * sine[i], 16 * kUnit);
    }
  }
}

}  // namespace
}  // namespace nibble
