// Against tests/golden/kmeans.json, made by a NumPy program in float64 (tools/golden/kmeans.py),
// and against definitions.
#include "quantizers/solvers/kmeans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/codebooks.h"
#include "src/quantized/comparison.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using testing::HasSubstr;

struct Inputs {
  Matrix W;              // [N, K]
  std::vector<float> h;  // [K]
};

// As tools/golden/kmeans.py describes.
Inputs golden_inputs(int64_t N, int64_t K) {
  uint32_t state = 2024;
  const auto draw = [&state] {
    state = state * 1664525U + 1013904223U;
    return static_cast<double>(static_cast<int32_t>(state >> 8) - (1 << 23)) * 0x1p-23;
  };
  Inputs inputs = {Matrix(N, K), std::vector<float>(static_cast<size_t>(K))};
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) {
      const double u = draw();
      double w = u * u * u * std::ldexp(1., -static_cast<int>(n % 3));
      if (k % 5 == 0) w = std::nearbyint(w * 64.) / 64.;
      inputs.W(n, k) = static_cast<float>(w);
    }
  }
  for (size_t k = 0; k < inputs.h.size(); ++k) {
    const double u = draw();
    inputs.h[k] = static_cast<float>(u * u * std::ldexp(1., -static_cast<int>(k * 7 % 5)));
  }
  inputs.h[7] = 0.F;
  return inputs;
}

Matrix random_weights(int64_t N, int64_t K, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Matrix W(N, K);
  for (int64_t i = 0; i < W.size(); ++i) W.data()[i] = 0.02F * normal(generator);
  return W;
}

// sum h (W - Q)^2
double loss(const Matrix& W, const std::vector<float>& h, const Matrix& Q) {
  double total = 0.;
  for (int64_t n = 0; n < W.rows(); ++n) {
    for (int64_t k = 0; k < W.cols(); ++k) {
      const double difference = static_cast<double>(W(n, k)) - static_cast<double>(Q(n, k));
      total += (h.empty() ? 1. : h[static_cast<size_t>(k)]) * difference * difference;
    }
  }
  return total;
}

SolverResult kmeans(const Matrix& W, const Scheme& scheme, const KmeansOptions& options = {},
                    const std::vector<float>& importance = {}) {
  return solve_kmeans({.W = W, .scheme = scheme, .where = "layer"}, options, importance);
}

TEST(Kmeans, EqualsTheOptimumOfNumPyAndBeatsLloyd) {
  const auto file =
      nlohmann::json::parse(read_file(own_test_data().parent_path() / "golden" / "kmeans.json"));
  const auto [W, h] = golden_inputs(file["N"].get<int64_t>(), file["K"].get<int64_t>());
  ASSERT_NEAR(W.cast<double>().sum(), file["inputs"]["sum"].get<double>(), 1e-12);
  ASSERT_EQ(file["cases"].size(), 10U);
  for (const auto& row : file["cases"]) {
    const int bits = row["bits"].get<int>();
    const int64_t group = row["group"].get<int64_t>();
    SCOPED_TRACE(std::to_string(bits) + " bits, group " + std::to_string(group));
    const Scheme scheme = kmeans_scheme(bits, group > 0 ? group : kAll, group == 0);
    const std::vector<float> importance = row["weighted"].get<bool>() ? h : std::vector<float>();
    KmeansOptions options;
    options.codebook_type = *dtype_from_name(row["codebook_type"].get<std::string>());
    const SolverResult result = kmeans(W, scheme, options, importance);
    ASSERT_NO_THROW(check(result.q, "layer"));
    const Matrix Q = dequantize(result.q);
    const double found = loss(W, importance, Q) / loss(W, importance, Matrix::Zero(6, 200));
    const double expected = row["loss"].get<double>();
    EXPECT_NEAR(found / expected, 1., 1e-4);
    EXPECT_LT(found, row["lloyd_loss"].get<double>());

    const auto levels = row["last_codebook"].get<std::vector<float>>();
    const auto digits = row["codes"].get<std::string>();
    const size_t width = bits <= 4 ? 1 : 2;
    const auto codes = result.q.codes.values<uint8_t>();
    size_t equal = 0;
    for (size_t i = 0; i < codes.size(); ++i) {
      equal += std::stoi(digits.substr(i * width, width), nullptr, 16) == codes[i] ? 1 : 0;
    }
    EXPECT_GE(static_cast<double>(equal), .999 * static_cast<double>(codes.size()));
    // Levels of the last weights' codebook, at most one step of its type apart.
    for (int64_t k = 195; k < 200; ++k) {
      const float step =
          std::ldexp(std::abs(Q(5, k)), options.codebook_type == Dtype::kBF16 ? -7 : -10);
      const auto code = result.q.codes.values<uint8_t>()[static_cast<size_t>(5 * 200 + k)];
      EXPECT_NEAR(Q(5, k), levels[code], step) << k;
    }

    options.optimum = false;
    const SolverResult seeded = kmeans(W, scheme, options, importance);
    const double seeded_loss =
        loss(W, importance, dequantize(seeded.q)) / loss(W, importance, Matrix::Zero(6, 200));
    EXPECT_GE(seeded_loss, expected * (1. - 1e-4));
    EXPECT_LT(seeded_loss, row["lloyd_loss"].get<double>());
  }
}

TEST(Kmeans, IsTheSameForAnyNumberOfThreadsAndRunToRun) {
  const Matrix W = random_weights(40, 300, 4);
  std::vector<float> h(300);
  for (size_t k = 0; k < h.size(); ++k) h[k] = static_cast<float>(1 + k % 11);
  const int threads = omp_get_max_threads();
  for (const Scheme& scheme :
       {kmeans_scheme(3), kmeans_scheme(4, 32), kmeans_scheme(4, kAll, true)}) {
    for (const bool optimum : {true, false}) {
      KmeansOptions options = {.optimum = optimum, .seed = 5};
      std::set<std::array<uint64_t, 2>> found;
      for (const int count : {1, 2, 3, 1}) {
        omp_set_num_threads(count);
        found.insert(fingerprint(kmeans(W, scheme, options, h).q));
      }
      omp_set_num_threads(threads);
      EXPECT_EQ(found.size(), 1U) << describe(scheme) << optimum;
      options.seed = 6;
      const bool differs = found.count(fingerprint(kmeans(W, scheme, options, h).q)) == 0;
      EXPECT_EQ(differs, !optimum) << describe(scheme);
    }
  }
}

TEST(Kmeans, ImportanceMovesTheErrorToColumnsWithoutWeight) {
  const Matrix W = random_weights(16, 256, 1);
  std::vector<float> h(256, 1.F);
  for (size_t k = 0; k < 64; ++k) h[k] = 100.F;
  const Matrix plain = dequantize(kmeans(W, kmeans_scheme(3)).q);
  const Matrix weighted = dequantize(kmeans(W, kmeans_scheme(3), {}, h).q);
  EXPECT_LT(loss(W, h, weighted), .95 * loss(W, h, plain));
  EXPECT_GT(loss(W, {}, weighted), loss(W, {}, plain));
}

TEST(Kmeans, BeatsRoundingToNearestAtTheSameBits) {
  const Matrix W = random_weights(24, 512, 2);
  for (const int bits : {2, 3, 4}) {
    const SolverResult rounded = solve_rtn(
        {.W = W, .scheme = integer_scheme(bits, kAll, false, Dtype::kF16), .where = "layer"});
    EXPECT_LT(relative_error(W, kmeans(W, kmeans_scheme(bits)).q),
              .8 * relative_error(W, rounded.q))
        << bits;
  }
}

TEST(Kmeans, MoreBooksHaveLessError) {
  const Matrix W = random_weights(32, 256, 3);
  const double tensor = relative_error(W, kmeans(W, kmeans_scheme(4, kAll, true)).q);
  const double rows = relative_error(W, kmeans(W, kmeans_scheme(4)).q);
  const double groups = relative_error(W, kmeans(W, kmeans_scheme(4, 64)).q);
  EXPECT_LT(rows, tensor);
  EXPECT_LT(groups, rows);
}

TEST(Kmeans, TakesBlocksOfEveryShape) {
  const Matrix W = random_weights(10, 70, 6);
  for (const Blocking& blocking :
       {Blocking{.rows = 4, .columns = 33}, Blocking{.rows = kAll, .columns = 25},
        Blocking{.rows = 3, .columns = kAll}, Blocking{.columns = 64, .flattened = true}}) {
    Scheme scheme = kmeans_scheme(3);
    scheme.codebook_blocking = blocking;
    const SolverResult result = kmeans(W, scheme);
    ASSERT_NO_THROW(check(result.q, "layer"));
    // Levels of every block fitted to its own weights: the mean of a code's weights is its level.
    const Matrix Q = dequantize(result.q);
    std::vector<double> sums(static_cast<size_t>(result.q.codebooks.elements()));
    std::vector<double> counts(sums.size());
    for (int64_t n = 0; n < 10; ++n) {
      for (int64_t k = 0; k < 70; ++k) {
        const auto at =
            static_cast<size_t>(codebook_index(result.q, n, k) * 8 +
                                result.q.codes.values<uint8_t>()[static_cast<size_t>(n * 70 + k)]);
        sums[at] += static_cast<double>(W(n, k)) - static_cast<double>(Q(n, k));
        counts[at] += 1.;
      }
    }
    // F16 levels of at most 0.1: half a step is 2^-15.
    for (size_t i = 0; i < sums.size(); ++i) {
      EXPECT_LE(std::abs(sums[i]), counts[i] * 0x1p-15) << describe(scheme) << " " << i;
    }
  }
}

TEST(Kmeans, ConstantAndDeadWeightsAreExact) {
  Matrix W = Matrix::Zero(3, 40);
  W.row(1).setConstant(0.5F);
  W.row(2).head(3) << 1.F, 2.F, -4.F;
  const SolverResult result = kmeans(W, kmeans_scheme(2));
  ASSERT_NO_THROW(check(result.q, "layer"));
  EXPECT_EQ(dequantize(result.q), W);
  EXPECT_EQ(relative_error(W, result.q), 0.);
  // Columns of no importance still get their nearest level.
  std::vector<float> h(40, 0.F);
  h[0] = 1.F;
  const Matrix Q = dequantize(kmeans(W, kmeans_scheme(2), {}, h).q);
  EXPECT_EQ(Q.row(2), Matrix::Constant(1, 40, 1.F));
  EXPECT_EQ(dequantize(kmeans(W, kmeans_scheme(2), {}, std::vector<float>(40, 0.F)).q), W);
}

TEST(Kmeans, WhatItCannotTakeIsNamed) {
  const auto error = [](const Matrix& W, const Scheme& scheme, const KmeansOptions& options = {},
                        const std::vector<float>& importance = {}) -> std::string {
    try {
      kmeans(W, scheme, options, importance);
    } catch (const Error& found) {
      return found.what();
    }
    return "no error";
  };
  Matrix W = random_weights(4, 16, 8);
  EXPECT_THAT(error(W, integer_scheme(4, kAll, true, Dtype::kF16)),
              HasSubstr("layer: k-means makes codebooks without scales, not int4"));
  EXPECT_THAT(error(W, kmeans_scheme(4), {.codebook_type = Dtype::kF8E4M3}),
              HasSubstr("codebooks of type F8_E4M3"));
  EXPECT_THAT(error(W, kmeans_scheme(4), {.starts = 0}), HasSubstr("0 runs"));
  EXPECT_THAT(error(W, kmeans_scheme(4), {}, {1.F}),
              HasSubstr("importance of 1 columns, expected 16"));
  EXPECT_THAT(error(W, kmeans_scheme(4), {}, std::vector<float>(16, -1.F)),
              HasSubstr("importance -1.000000 of column 0"));
  W(2, 5) = 1e6F;
  W(3, 5) = 1e7F;
  EXPECT_THAT(
      error(W, kmeans_scheme(4)),
      HasSubstr("a level of codebook 2 is infinite in F16 (store codebooks as BF16 or F32)"));
  EXPECT_EQ(error(W, kmeans_scheme(4), {.codebook_type = Dtype::kBF16}), "no error");
  W(1, 3) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(error(W, kmeans_scheme(4)), HasSubstr("layer: NaN at row 1, column 3"));
  EXPECT_THROW(kmeans_scheme(0), Error);
  EXPECT_THROW(kmeans_scheme(9), Error);
  EXPECT_THROW(kmeans_scheme(4, 0), Error);
  EXPECT_THROW(kmeans_scheme(4, 64, true), Error);
}

}  // namespace
}  // namespace nibble
