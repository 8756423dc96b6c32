#include "quantizers/solvers/layer_error.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/comparison.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

Matrix normal_weights(int64_t N, int64_t K, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Matrix W(N, K);
  for (int64_t i = 0; i < W.size(); ++i) W.data()[i] = normal(generator);
  return W;
}

QuantizedLinear rounded(const Matrix& W, int bits, bool symmetric) {
  const Scheme scheme = integer_scheme(bits, 64, symmetric, Dtype::kF16);
  return solve_rtn({.W = W, .scheme = scheme, .where = "layer"}).q;
}

TEST(LayerError, IsThatOfItsDefinition) {
  const Matrix W = normal_weights(37, 200, 1);
  for (const int bits : {2, 4, 8}) {
    const QuantizedLinear q = rounded(W, bits, false);
    const Matrix shifted = W + 0.3F * normal_weights(37, 200, 2);
    for (const Matrix& weights : {W, shifted}) {
      const Eigen::MatrixXd error = weights.cast<double>() - dequantize(q).cast<double>();
      const double expected = error.norm() / weights.cast<double>().norm();
      const LayerErrors errors = layer_errors(weights, q);
      EXPECT_NEAR(errors.weight_error / expected, 1., 1e-12);
      EXPECT_NEAR(errors.snr_db, -20. * std::log10(expected), 1e-9);
      EXPECT_EQ(errors.clip_share, static_cast<double>(compare(weights, q).clipped) / (37. * 200.));
    }
    EXPECT_EQ(layer_errors(W, q).clip_share, 0.);
    EXPECT_GT(layer_errors(shifted, q).clip_share, 0.);
  }
}

TEST(LayerError, ABitIsSixDecibels) {
  const Matrix W = normal_weights(64, 512, 3);
  double last = layer_errors(W, rounded(W, 4, true)).snr_db;
  for (const int bits : {5, 6, 7, 8}) {
    const double next = layer_errors(W, rounded(W, bits, true)).snr_db;
    EXPECT_NEAR(next - last, 6.02, .5) << bits;
    last = next;
  }
}

TEST(LayerError, ExactAndEmptyLayers) {
  Matrix W(2, 64);
  for (int64_t i = 0; i < W.size(); ++i) W.data()[i] = static_cast<float>(i % 16) / 16.F;
  const LayerErrors exact = layer_errors(W, rounded(W, 4, false));
  EXPECT_EQ(exact.weight_error, 0.);
  EXPECT_EQ(exact.snr_db, std::numeric_limits<double>::infinity());
  W.setZero();
  const LayerErrors zero = layer_errors(W, rounded(W, 4, false));
  EXPECT_EQ(zero.weight_error, 0.);
  EXPECT_EQ(zero.snr_db, std::numeric_limits<double>::infinity());
}

TEST(LayerError, IsTheSameForAnyNumberOfThreads) {
  const Matrix W = normal_weights(101, 700, 4);
  const QuantizedLinear q = rounded(0.8F * W, 3, true);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const LayerErrors one = layer_errors(W, q);
  for (const int count : {2, 3, 5}) {
    omp_set_num_threads(count);
    const LayerErrors many = layer_errors(W, q);
    EXPECT_EQ(many.weight_error, one.weight_error);
    EXPECT_EQ(many.snr_db, one.snr_db);
    EXPECT_EQ(many.clip_share, one.clip_share);
  }
  omp_set_num_threads(threads);
}

TEST(LayerError, OfTheOutputsIsThatOfTheTokens) {
  const Matrix W = normal_weights(12, 64, 5);
  const Matrix X = normal_weights(90, 64, 6);
  const QuantizedLinear q = rounded(W, 3, false);
  const Matrix H = X.transpose() * X / 90.F;
  const Eigen::MatrixXd outputs = X.cast<double>() * W.cast<double>().transpose();
  const Eigen::MatrixXd error = X.cast<double>() * (W - dequantize(q)).cast<double>().transpose();
  // Float products of 64 terms: some 64 epsilons.
  EXPECT_NEAR(output_error(W, H, q) / (error.norm() / outputs.norm()), 1., 1e-5);
}

}  // namespace
}  // namespace nibble
