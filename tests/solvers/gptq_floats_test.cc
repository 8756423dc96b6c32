// GPTQ on FP8, NVFP4 and MXFP4, whose scales are those of rounding to nearest.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/factorize.h"
#include "kernels/hessian.h"
#include "quantizers/solvers/gptq.h"
#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

Matrix coupled_hessian(int64_t K) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  Matrix X(4 * K, K);
  for (int64_t k = 0; k < K; ++k) {
    const float size = std::exp(0.7F * normal(generator));
    for (int64_t t = 0; t < X.rows(); ++t) {
      X(t, k) = size * normal(generator) + (k > 0 ? 0.7F * X(t, k - 1) : 0.F);
    }
  }
  return X.transpose() * X / static_cast<float>(X.rows());
}

Matrix normal_weights(int64_t N, int64_t K) {
  std::mt19937 generator(4);
  std::normal_distribution<float> normal;
  Matrix W(N, K);
  for (int64_t i = 0; i < W.size(); ++i) W.data()[i] = 0.02F * normal(generator);
  return W;
}

std::vector<Scheme> float_schemes() {
  return {fp8_scheme({}, Dtype::kF16), fp8_scheme({.rows = 128, .columns = 128}, Dtype::kF32),
          nvfp4_scheme(true), mxfp4_scheme()};
}

Factorization factorized(const Matrix& H) {
  return factorize(H, activation_order(H), 0.01, "layer");
}

QuantizedLinear solved(const Matrix& W, const Scheme& scheme, const Matrix& H, int sweeps) {
  const LinearProblem problem{.W = W, .scheme = scheme, .where = "layer"};
  return solve_gptq_on_grid(problem, solve_rtn(problem), H, factorized(H), {.sweeps = sweeps})
      .solved.q;
}

TEST(GptqFloats, LosesLessThanRoundingToNearestAndLessWithSweeps) {
  const Matrix W = normal_weights(70, 288);
  const Matrix H = coupled_hessian(288);
  for (const Scheme& scheme : float_schemes()) {
    const QuantizedLinear rounded = solve_rtn({.W = W, .scheme = scheme, .where = "layer"}).q;
    const QuantizedLinear q = solved(W, scheme, H, 0);
    const QuantizedLinear refined = solved(W, scheme, H, 2);
    ASSERT_NO_THROW(check(q, "layer"));
    ASSERT_NO_THROW(check(refined, "layer"));
    const double least = quadratic_form(W - dequantize(q), H);
    EXPECT_LT(least, 0.7 * quadratic_form(W - dequantize(rounded), H)) << describe(scheme);
    EXPECT_LT(quadratic_form(W - dequantize(refined), H), least) << describe(scheme);
    EXPECT_EQ(float_parameters(q).scale, float_parameters(rounded).scale);
    // Powers of two are too far apart to move; what rows share stays.
    const bool moves = scheme.blocking.rows == 1 && scheme.scale->type != Dtype::kF8E8M0;
    EXPECT_EQ(float_parameters(refined).scale != float_parameters(rounded).scale, moves);
  }
}

// Every column by the definition, in double, from the factor: away from ties the same codes.
TEST(GptqFloats, IsTheRecursion) {
  const Matrix W = normal_weights(5, 160);
  const Matrix H = coupled_hessian(160);
  const Factorization f = factorized(H);
  for (const Scheme& scheme : float_schemes()) {
    const QuantizedLinear q = solved(W, scheme, H, 0);
    const Matrix Q = dequantize(q);
    for (int64_t n = 0; n < W.rows(); ++n) {
      for (int64_t j = 0; j < W.cols(); ++j) {
        const int64_t column = f.order[static_cast<size_t>(j)];
        double target = W(n, column);
        for (int64_t i = 0; i < j; ++i) {
          const int64_t earlier = f.order[static_cast<size_t>(i)];
          target +=
              static_cast<double>(W(n, earlier) - Q(n, earlier)) * static_cast<double>(f.F(j, i));
        }
        const double scale = block_parameters(q, n, column).scale;
        double nearest = std::numeric_limits<double>::infinity();
        for (const float level : scheme.grid.table) {
          if (std::isnan(level)) continue;
          nearest = std::min(nearest, std::fabs(target - static_cast<double>(level) * scale));
        }
        EXPECT_LE(std::fabs(target - static_cast<double>(Q(n, column))),
                  nearest + 1e-5 * scale * (1. + std::fabs(target / scale)))
            << describe(scheme) << " " << n << " " << column;
      }
    }
  }
}

// Of two levels as near, rounding to nearest takes the even one: random weights have no such ties.
TEST(GptqFloats, WithoutCouplingIsRoundingToNearest) {
  const Matrix W = normal_weights(9, 64);
  const Matrix H = Matrix::Identity(64, 64);
  for (const Scheme& scheme : float_schemes()) {
    const QuantizedLinear rounded = solve_rtn({.W = W, .scheme = scheme, .where = "layer"}).q;
    EXPECT_TRUE(dequantize(solved(W, scheme, H, 0)) == dequantize(rounded)) << describe(scheme);
  }
}

TEST(GptqFloats, SameBitsForAnyNumberOfThreads) {
  const Matrix W = normal_weights(300, 192);
  const Matrix H = coupled_hessian(192);
  const int threads = omp_get_max_threads();
  for (const Scheme& scheme : float_schemes()) {
    omp_set_num_threads(1);
    const auto one = fingerprint(solved(W, scheme, H, 2));
    omp_set_num_threads(2);
    EXPECT_EQ(fingerprint(solved(W, scheme, H, 2)), one) << describe(scheme);
    omp_set_num_threads(threads);
  }
}

}  // namespace
}  // namespace nibble
