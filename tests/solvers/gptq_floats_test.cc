#include "quantizers/solvers/gptq_floats.h"

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

TEST(GptqFloats, LosesLessThanRoundingToNearest) {
  const Matrix W = normal_weights(70, 288);
  const Matrix H = coupled_hessian(288);
  for (const Scheme& scheme : float_schemes()) {
    const LinearProblem problem{.W = W, .scheme = scheme, .where = "layer"};
    const QuantizedLinear rounded = solve_rtn(problem).q;
    const SolverResult solved = solve_gptq_floats(problem, factorized(H));
    ASSERT_NO_THROW(check(solved.q, "layer"));
    const double least = quadratic_form(W - dequantize(solved.q), H);
    EXPECT_LT(least, 0.7 * quadratic_form(W - dequantize(rounded), H)) << describe(scheme);
    EXPECT_EQ(float_parameters(solved.q).scale, float_parameters(rounded).scale);
  }
}

// Every column by the definition, in double, from the factor: away from ties the same codes.
TEST(GptqFloats, IsTheRecursion) {
  const Matrix W = normal_weights(5, 160);
  const Matrix H = coupled_hessian(160);
  const Factorization f = factorized(H);
  for (const Scheme& scheme : float_schemes()) {
    const QuantizedLinear q = solve_gptq_floats({.W = W, .scheme = scheme, .where = "layer"}, f).q;
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

TEST(GptqFloats, WithoutCouplingIsRoundingToNearest) {
  const Matrix W = normal_weights(9, 64);
  const Matrix H = Matrix::Identity(64, 64);
  for (const Scheme& scheme : float_schemes()) {
    const LinearProblem problem{.W = W, .scheme = scheme, .where = "layer"};
    EXPECT_EQ(fingerprint(solve_gptq_floats(problem, factorized(H)).q),
              fingerprint(solve_rtn(problem).q))
        << describe(scheme);
  }
}

TEST(GptqFloats, SameBitsForAnyNumberOfThreads) {
  const Matrix W = normal_weights(300, 192);
  const Factorization f = factorized(coupled_hessian(192));
  const int threads = omp_get_max_threads();
  for (const Scheme& scheme : float_schemes()) {
    const LinearProblem problem{.W = W, .scheme = scheme, .where = "layer"};
    omp_set_num_threads(1);
    const auto one = fingerprint(solve_gptq_floats(problem, f).q);
    omp_set_num_threads(2);
    EXPECT_EQ(fingerprint(solve_gptq_floats(problem, f).q), one) << describe(scheme);
    omp_set_num_threads(threads);
  }
}

}  // namespace
}  // namespace nibble
