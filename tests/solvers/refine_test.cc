#include "quantizers/solvers/refine.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/factorize.h"
#include "quantizers/solvers/correct_past.h"
#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

Matrix random_matrix(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Matrix X(rows, columns);
  for (int64_t i = 0; i < X.size(); ++i) X.data()[i] = normal(generator);
  return X;
}

Matrix neighbour_hessian(int64_t T, int64_t K, uint32_t seed) {
  Matrix X = random_matrix(T, K, seed);
  for (int64_t k = 1; k < K; ++k) X.col(k) += 0.6F * X.col(k - 1);
  return X.transpose() * X / static_cast<float>(T);
}

// e'(H + damping)e of every row, in double.
Eigen::VectorXd losses(const Matrix& W, const QuantizedLinear& q, const Matrix& H, double damping) {
  const Eigen::MatrixXd e = (W - dequantize(q)).cast<double>();
  Eigen::MatrixXd A = H.cast<double>();
  A.diagonal().array() += damping;
  return (e * A).cwiseProduct(e).rowwise().sum();
}

QuantizedLinear nearest(const Matrix& W, const Scheme& scheme,
                        const std::vector<int32_t>& groups = {}) {
  return solve_rtn({.W = W, .scheme = scheme, .group_of_column = groups, .where = "layer"}).q;
}

TEST(Refine, NoSweepRaisesTheLossOfARow) {
  for (const int64_t K : {1, 40, 300}) {
    const Matrix H = neighbour_hessian(2 * K + 10, K, 1);
    const Matrix W = random_matrix(70, K, 2);
    for (const int bits : {2, 3, 4}) {
      for (const bool symmetric : {false, true}) {
        for (const int64_t group : {int64_t{32}, int64_t{100}, kAll}) {
          QuantizedLinear q = nearest(W, integer_scheme(bits, group, symmetric, Dtype::kF16));
          Eigen::VectorXd before = losses(W, q, H, 0.01);
          for (int sweep = 0; sweep < 4; ++sweep) {
            refine(W, H, 0.01, 1, q);
            EXPECT_NO_THROW(check(q, "layer"));
            const Eigen::VectorXd after = losses(W, q, H, 0.01);
            for (int64_t n = 0; n < W.rows(); ++n) {
              // Decisions are made in float on gradients of magnitude |H e|.
              ASSERT_LE(after(n), before(n) * (1. + 1e-5) + 1e-9) << describe(q.scheme) << " " << n;
            }
            before = after;
          }
        }
      }
    }
  }
}

TEST(Refine, SweepsInOneCallAreSweepsInSeveral) {
  const Matrix H = neighbour_hessian(300, 128, 3);
  const Matrix W = random_matrix(30, 128, 4);
  QuantizedLinear once = nearest(W, integer_scheme(3, 32, false, Dtype::kF16));
  QuantizedLinear twice = nearest(W, integer_scheme(3, 32, false, Dtype::kF16));
  refine(W, H, 0.01, 2, once);
  refine(W, H, 0.01, 1, twice);
  refine(W, H, 0.01, 1, twice);
  EXPECT_EQ(fingerprint(once), fingerprint(twice));
}

TEST(Refine, EverySweepOfManyPanelsLowersTheLoss) {
  // 1300 columns are three panels, visited forwards and backwards in turn.
  const Matrix H = neighbour_hessian(1500, 1300, 13);
  const Matrix W = random_matrix(40, 1300, 14);
  for (const int64_t group : {int64_t{128}, int64_t{600}}) {
    const QuantizedLinear start = nearest(W, integer_scheme(3, group, true, Dtype::kF16));
    double before = losses(W, start, H, 0.01).sum();
    for (int sweeps = 1; sweeps <= 4; ++sweeps) {
      QuantizedLinear q = start;
      refine(W, H, 0.01, sweeps, q);
      const double after = losses(W, q, H, 0.01).sum();
      EXPECT_LT(after, before * (1. - 1e-4)) << group << ", sweep " << sweeps;
      // Once more from there, gradients formed anew: those that were kept led to no worse a place.
      QuantizedLinear next = q;
      refine(W, H, 0.01, 1, next);
      EXPECT_LT(losses(W, next, H, 0.01).sum(), after) << group << ", sweep " << sweeps;
      before = after;
    }
  }
}

TEST(Refine, ConvergesWhereNoSingleCodeIsBetter) {
  // Brute force over every code of every column of a converged layer.
  const Matrix H = neighbour_hessian(60, 12, 5);
  const Matrix W = random_matrix(5, 12, 6);
  QuantizedLinear q = nearest(W, integer_scheme(2, 4, false, Dtype::kF32));
  refine(W, H, 0., 50, q);
  const Eigen::VectorXd found = losses(W, q, H, 0.);
  const auto chosen = q.codes.values<uint8_t>();
  for (size_t i = 0; i < chosen.size(); ++i) {
    for (uint8_t code = 0; code < 4; ++code) {
      std::vector<uint8_t> codes(chosen.begin(), chosen.end());
      codes[i] = code;
      QuantizedLinear other = q;
      other.codes = Tensor::copy_of<uint8_t>(Dtype::kU8, {5, 12}, codes);
      const auto n = static_cast<int64_t>(i / 12);
      EXPECT_GE(losses(W, other, H, 0.)(n), found(n) * (1. - 1e-5)) << i;
    }
  }
}

TEST(Refine, ReachesTheBestOfAllCodesForTwoColumnsMostly) {
  // One group of two columns, scale in F32: every pair of codes with its best scale.
  int best = 0;
  constexpr int kRows = 200;
  const Matrix H = neighbour_hessian(50, 2, 7);
  const Matrix W = random_matrix(kRows, 2, 8);
  QuantizedLinear q = nearest(W, integer_scheme(3, kAll, true, Dtype::kF32));
  const Eigen::VectorXd start = losses(W, q, H, 0.);
  refine(W, H, 0., 10, q);
  const Eigen::VectorXd found = losses(W, q, H, 0.);
  const Eigen::MatrixXd A = H.cast<double>();
  for (int64_t n = 0; n < kRows; ++n) {
    const Eigen::RowVector2d w = W.row(n).cast<double>();
    double least = w * A * w.transpose();
    for (int a = -4; a < 4; ++a) {
      for (int b = -4; b < 4; ++b) {
        const Eigen::RowVector2d c(a, b);
        const double square = c * A * c.transpose();
        const double slope = c * A * w.transpose();
        if (square > 0. && slope > 0.) {
          least = std::min(least, (w * A * w.transpose()).value() - slope * slope / square);
        }
      }
    }
    EXPECT_GE(found(n), least - 1e-6);
    best += found(n) <= least * 1.01 + 1e-7 ? 1 : 0;
  }
  // It is a descent, not a search: some rows stay in a neighbouring minimum.
  EXPECT_GE(best, kRows / 4);
  EXPECT_LT(found.sum(), 0.5 * start.sum());
}

TEST(Refine, ScattersGroupsAsSortedOnes) {
  const Matrix H = neighbour_hessian(300, 96, 9);
  const Matrix W = random_matrix(20, 96, 10);
  std::vector<int32_t> groups(96);
  for (size_t k = 0; k < 96; ++k) groups[k] = static_cast<int32_t>(k * 5 % 3);
  QuantizedLinear q = nearest(W, integer_scheme(3, 32, false, Dtype::kF16), groups);
  const double before = losses(W, q, H, 0.01).sum();
  refine(W, H, 0.01, 2, q);
  EXPECT_NO_THROW(check(q, "layer"));
  EXPECT_EQ(q.group_of_column, groups);
  EXPECT_LT(losses(W, q, H, 0.01).sum(), 0.8 * before);
}

TEST(Refine, SameBytesWithOneThreadAndWithTwo) {
  const int threads = omp_get_max_threads();
  const Matrix H = neighbour_hessian(500, 300, 11);
  const Matrix W = random_matrix(700, 300, 12);
  std::vector<std::array<uint64_t, 2>> prints;
  for (const int count : {1, 2}) {
    omp_set_num_threads(count);
    QuantizedLinear q = nearest(W, integer_scheme(4, 128, false, Dtype::kF16));
    refine(W, H, 0.01, 2, q);
    prints.push_back(fingerprint(q));
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(prints[0], prints[1]);
}

TEST(Refine, DeadColumnsAndZeroGroupsStay) {
  Matrix H = neighbour_hessian(300, 64, 13);
  H.row(7).setZero();
  H.col(7).setZero();
  Matrix W = random_matrix(20, 64, 14);
  W.rightCols(32).setZero();
  QuantizedLinear q = nearest(W, integer_scheme(4, 32, false, Dtype::kF16));
  refine(W, H, 0., 2, q);
  EXPECT_NO_THROW(check(q, "layer"));
  EXPECT_TRUE(dequantize(q).allFinite());
  EXPECT_LE(losses(W, q, H, 0.).sum(), losses(W, nearest(W, q.scheme), H, 0.).sum());
}

TEST(CorrectPast, IsTheLeastSquaresFitOfTheOriginalsOutput) {
  constexpr int64_t kTokens = 400;
  const Matrix X = random_matrix(kTokens, 30, 15);
  const Matrix X_q = X + 0.2F * random_matrix(kTokens, 30, 16);
  const Matrix R = random_matrix(kTokens, 12, 17);  // error of the residual stream
  const Matrix W = random_matrix(12, 30, 18);
  const auto tokens = static_cast<float>(kTokens);
  const Matrix H = X_q.transpose() * X_q / tokens;
  const Matrix input = (X - X_q).transpose() * X_q / tokens;
  const Matrix residual = R.transpose() * X_q / tokens;
  const Factorization f = factorize(H, activation_order(H), 1e-6, "layer");
  const Matrix corrected = correct_past(W, {&input, &residual}, f, 1., "layer");
  // W' = argmin |X W' - (X W + R)|: the residual of the fit is orthogonal to X_q.
  const Eigen::MatrixXd target = X.cast<double>() * W.cast<double>().transpose() + R.cast<double>();
  const Eigen::MatrixXd gap = target - X_q.cast<double>() * corrected.cast<double>().transpose();
  const Eigen::MatrixXd slope = X_q.cast<double>().transpose() * gap;
  EXPECT_LT(slope.norm(), 1e-3 * (X_q.cast<double>().transpose() * target).norm());
  const Matrix half = correct_past(W, {&input, &residual}, f, 0.5, "layer");
  EXPECT_LT((half - 0.5F * (W + corrected)).norm(), 1e-5F * W.norm());
  EXPECT_TRUE(correct_past(W, {&input, nullptr}, f, 0., "layer") == W);
  EXPECT_THROW(correct_past(W, {&residual, nullptr}, f, 1., "layer"), Error);
}

}  // namespace
}  // namespace nibble
