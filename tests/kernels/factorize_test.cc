// Against the definition and Eigen in double.
#include "kernels/factorize.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <Eigen/Cholesky>
#include <Eigen/LU>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

// X'X / T with columns of different size; rank min(T, K).
Matrix hessian(int64_t T, int64_t K, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  Eigen::MatrixXd X(T, K);
  for (int64_t k = 0; k < K; ++k) {
    const double size = std::exp(0.7 * normal(generator));
    for (int64_t t = 0; t < T; ++t) X(t, k) = size * normal(generator);
  }
  return (X.transpose() * X / static_cast<double>(T)).cast<float>();
}

Eigen::MatrixXd product(const Factorization& f) {
  Eigen::MatrixXd L = f.F.cast<double>();
  for (int64_t j = 0; j < L.rows(); ++j) L.row(j) *= f.D[static_cast<size_t>(j)];
  return L.transpose() * L;
}

// H[order][order] + damping * mean of the diagonal.
Eigen::MatrixXd damped(const Matrix& H, const Factorization& f) {
  Eigen::MatrixXd A(H.rows(), H.rows());
  for (int64_t i = 0; i < A.rows(); ++i) {
    for (int64_t j = 0; j < A.cols(); ++j) {
      A(i, j) = H(f.order[static_cast<size_t>(i)], f.order[static_cast<size_t>(j)]);
    }
  }
  A.diagonal().array() += f.damping * H.diagonal().cast<double>().mean();
  return A;
}

std::string message_of(const Matrix& H) {
  try {
    factorize(H, natural_order(H.rows()), 0.01, "layer");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Factorize, FactorsMultiplyToTheDampedHessianInItsOrder) {
  for (const int64_t K : {1, 2, 31, 255, 256, 257, 600}) {
    const Matrix H = hessian(2 * K + 10, K, static_cast<uint32_t>(K));
    const Factorization f = factorize(H, activation_order(H), 0.01, "layer");
    EXPECT_EQ(f.damping, 0.01);
    EXPECT_EQ(f.escalations, 0);
    EXPECT_TRUE(f.dead.empty());
    const Eigen::MatrixXd expected = damped(H, f);
    const Eigen::MatrixXd got = product(f);
    // Backward error of Cholesky (Higham, Accuracy and Stability, theorem 10.3): (K + 1) eps
    // |L'||L|, whose entries are at most sqrt(A_ii A_jj).
    const double epsilon = std::numeric_limits<float>::epsilon();
    for (int64_t i = 0; i < K; ++i) {
      for (int64_t j = 0; j < K; ++j) {
        const double allowed =
            static_cast<double>(K + 4) * epsilon * std::sqrt(expected(i, i) * expected(j, j));
        ASSERT_NEAR(got(i, j), expected(i, j), allowed) << K << ": " << i << ", " << j;
      }
      EXPECT_EQ(f.F(i, i), 1.F);
      ASSERT_TRUE(f.F.row(i).tail(K - 1 - i).isZero(0.F));
    }
  }
}

TEST(Factorize, InverseFactorIsThatOfThePaper) {
  // U upper with H^-1 = U'U, from Cholesky of the inverse; U = D^-1 (F')^-1.
  const Matrix H = hessian(200, 50, 3);
  const Factorization f = factorize(H, natural_order(50), 0.01, "layer");
  const Eigen::MatrixXd inverse = damped(H, f).inverse();
  const Eigen::MatrixXd U = Eigen::LLT<Eigen::MatrixXd>(inverse).matrixU();
  Eigen::MatrixXd ours = f.F.cast<double>().transpose().inverse();
  for (int64_t j = 0; j < 50; ++j) ours.row(j) /= f.D[static_cast<size_t>(j)];
  EXPECT_LT((ours - U).norm(), 1e-4 * U.norm());
}

TEST(Factorize, OrderIsByFallingDiagonalAndStable) {
  Matrix H = Matrix::Zero(5, 5);
  H.diagonal() << 1.F, 3.F, 2.F, 3.F, 0.F;
  EXPECT_EQ(activation_order(H), (std::vector<int32_t>{1, 3, 2, 0, 4}));
}

TEST(Factorize, DeadColumnsAreCoupledToNothing) {
  Matrix H = hessian(300, 40, 4);
  for (const int64_t k : {7, 39}) {
    H.row(k).setZero();
    H.col(k).setZero();
  }
  const Factorization f = factorize(H, natural_order(40), 0.01, "layer");
  EXPECT_EQ(f.dead, (std::vector<int32_t>{7, 39}));
  EXPECT_EQ(f.D[7], 1.F);
  EXPECT_TRUE(f.F.row(7).head(7).isZero(0.F));
  EXPECT_TRUE(f.F.col(7).tail(32).isZero(0.F));
  const Factorization nothing = factorize(Matrix::Zero(6, 6), natural_order(6), 0.01, "layer");
  EXPECT_EQ(nothing.dead.size(), 6U);
  EXPECT_TRUE(nothing.F.isIdentity(0.F));
}

TEST(Factorize, SingularHessiansNeedTheirDamping) {
  const Matrix H = hessian(20, 100, 5);  // rank 20
  const Factorization f = factorize(H, activation_order(H), 0.01, "layer");
  EXPECT_EQ(f.damping, 0.01);
  EXPECT_EQ(f.escalations, 0);
  // Without damping double fails too, or loses all digits: the amount is reported.
  const Factorization undamped = factorize(H, activation_order(H), 0., "layer");
  EXPECT_TRUE(undamped.in_double);
  EXPECT_GT(undamped.damping, 0.);
  EXPECT_LE(undamped.damping, 1e-3);
  EXPECT_GE(undamped.escalations, 1);
  const Eigen::MatrixXd expected = damped(H, undamped);
  EXPECT_LT((product(undamped) - expected).norm(), 1e-5 * expected.norm());
}

TEST(Factorize, DoubleIsTriedBeforeMoreDamping) {
  // Two columns equal up to 1e-7: in float the second pivot has no digit left, in double it has.
  Matrix H = Matrix::Identity(2, 2);
  H(0, 1) = H(1, 0) = std::nextafter(1.F, 0.F);
  const Factorization f = factorize(H, natural_order(2), 0., "layer");
  EXPECT_TRUE(f.in_double);
  EXPECT_EQ(f.escalations, 0);
  EXPECT_EQ(f.damping, 0.);
  const double h = H(0, 1);
  EXPECT_NEAR(f.D[0], std::sqrt(1. - h * h), 1e-6 * std::sqrt(1. - h * h));
}

TEST(Factorize, IndefiniteHessiansAreRaisedTenfold) {
  Matrix H = Matrix::Identity(2, 2);
  H(0, 1) = H(1, 0) = 1.05F;  // smallest eigenvalue -0.05
  const Factorization f = factorize(H, natural_order(2), 0.01, "layer");
  EXPECT_EQ(f.escalations, 1);
  EXPECT_DOUBLE_EQ(f.damping, 0.1);
  H(0, 1) = H(1, 0) = 3.F;
  EXPECT_NE(message_of(H).find("layer: Hessian: not positive definite"), std::string::npos);
}

TEST(Factorize, EntriesThatAreNotFiniteAreNamed) {
  Matrix H = hessian(100, 30, 6);
  H(3, 17) = std::nanf("");
  EXPECT_EQ(message_of(H),
            "layer: Hessian: NaN at row 3, column 17 (are there NaN in the activations?)");
  H(3, 17) = std::numeric_limits<float>::infinity();
  EXPECT_NE(message_of(H).find("infinity at row 3, column 17"), std::string::npos);
  H(3, 17) = 0.F;
  H(5, 5) = -1.F;
  EXPECT_NE(message_of(H).find("diagonal -1.000000 at column 5"), std::string::npos);
}

TEST(Factorize, SameBytesWithOneThreadAndWithTwo) {
  const int threads = omp_get_max_threads();
  const Matrix H = hessian(900, 700, 7);
  const Matrix B = hessian(300, 700, 8);
  std::vector<Factorization> runs;
  std::vector<Matrix> solved;
  for (int run = 0; run < 2; ++run) {
    omp_set_num_threads(run + 1);
    runs.push_back(factorize(H, activation_order(H), 0.01, "layer"));
    solved.push_back(B);
    solve_rows(runs.back(), solved.back());
  }
  omp_set_num_threads(threads);
  EXPECT_TRUE(runs[0].F == runs[1].F);
  EXPECT_EQ(runs[0].D, runs[1].D);
  EXPECT_TRUE(solved[0] == solved[1]);
}

TEST(Factorize, SolvesForRowsInTheColumnsOwnOrder) {
  Matrix H = hessian(500, 90, 9);
  H.row(11).setZero();
  H.col(11).setZero();
  Matrix B = hessian(100, 90, 10).topRows(70);
  const Factorization f = factorize(H, activation_order(H), 0.01, "layer");
  Eigen::MatrixXd A = H.cast<double>();
  A.diagonal().array() += 0.01 * A.diagonal().sum() / 89.;
  Eigen::MatrixXd expected = B.cast<double>();
  expected.col(11).setZero();
  expected = expected * A.inverse();
  solve_rows(f, B);
  EXPECT_TRUE(B.col(11).isZero(0.F));
  EXPECT_LT((B.cast<double>() - expected).norm(), 1e-4 * expected.norm());
}

}  // namespace
}  // namespace nibble
