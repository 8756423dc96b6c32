// Against sums in double.
#include "kernels/hessian.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>

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

bool same_bytes(const Matrix& a, const Matrix& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size()) * sizeof(float)) == 0;
}

// T products are summed in float: each sum is off by at most T eps |x_i| |x_j|.
void expect_near_product(const Matrix& a, const Matrix& b, const Matrix& sum, bool triangle) {
  const Eigen::MatrixXd exact = a.cast<double>().transpose() * b.cast<double>();
  const double epsilon = std::numeric_limits<float>::epsilon();
  for (int64_t i = 0; i < sum.rows(); ++i) {
    for (int64_t j = triangle ? i : 0; j < sum.cols(); ++j) {
      const double allowed = static_cast<double>(a.rows() + 2) * epsilon *
                             a.col(i).cast<double>().norm() * b.col(j).cast<double>().norm();
      ASSERT_NEAR(sum(i, j), exact(i, j), allowed) << i << ", " << j;
    }
  }
}

TEST(Hessian, GramIsTheSumOfProductsInTheUpperTriangle) {
  for (const int64_t K : {1, 5, 64, 130, 300, 800}) {
    for (const int64_t T : {1, 7, 200}) {
      const Matrix X = random_matrix(T, K, 1);
      Matrix sum = Matrix::Zero(K, K);
      add_gram(X, sum);
      expect_near_product(X, X, sum, true);
      for (int64_t i = 1; i < K; ++i) ASSERT_TRUE(sum.row(i).head(i).isZero(0.F)) << K;
    }
  }
}

TEST(Hessian, BatchesAddUp) {
  const Matrix X = random_matrix(300, 70, 2);
  Matrix sum = Matrix::Zero(70, 70);
  add_gram(X.topRows(100), sum);
  add_gram(X.bottomRows(200), sum);
  expect_near_product(X, X, sum, true);
}

TEST(Hessian, CrossProductsHaveBothTriangles) {
  const Matrix X0 = random_matrix(120, 300, 3);
  const Matrix X = random_matrix(120, 90, 4);
  Matrix sum = Matrix::Zero(300, 90);
  add_cross(X0, X, sum);
  expect_near_product(X0, X, sum, false);
}

TEST(Hessian, SameBytesWithOneThreadAndWithTwo) {
  const int threads = omp_get_max_threads();
  for (const int64_t K : {96, 700, 2100}) {
    const Matrix X = random_matrix(333, K, 5);
    Matrix gram[2];
    Matrix cross[2];
    for (int run = 0; run < 2; ++run) {
      omp_set_num_threads(run + 1);
      gram[run] = Matrix::Zero(K, K);
      add_gram(X, gram[run]);
      cross[run] = Matrix::Zero(K, K);
      add_cross(X, X, cross[run]);
    }
    EXPECT_TRUE(same_bytes(gram[0], gram[1])) << K;
    EXPECT_TRUE(same_bytes(cross[0], cross[1])) << K;
  }
  omp_set_num_threads(threads);
}

TEST(Hessian, MirrorMakesItSymmetric) {
  for (const int64_t K : {1, 63, 65, 200}) {
    const Matrix X = random_matrix(40, K, 6);
    Matrix H = Matrix::Zero(K, K);
    add_gram(X, H);
    const Matrix upper = H.triangularView<Eigen::Upper>();
    mirror_upper(H);
    EXPECT_TRUE(H == H.transpose()) << K;
    EXPECT_TRUE(Matrix(H.triangularView<Eigen::Upper>()) == upper) << K;
  }
}

TEST(Hessian, QuadraticFormIsTheErrorOfTheOutputs) {
  for (const int64_t K : {1, 100, 700}) {
    const Matrix X = random_matrix(K + 30, K, 9);
    Matrix H = Matrix::Zero(K, K);
    add_gram(X, H);
    mirror_upper(H);
    const Matrix E = random_matrix(150, K, 10);
    // |X E'|^2
    const double exact = (X.cast<double>() * E.cast<double>().transpose()).squaredNorm();
    // Two sums of K products in float.
    const double epsilon = std::numeric_limits<float>::epsilon();
    EXPECT_NEAR(quadratic_form(E, H), exact, 2. * static_cast<double>(K + 40) * epsilon * exact);
  }
}

TEST(Hessian, ColumnsHaveSumAndLargestOfTheMagnitude) {
  const Matrix X = random_matrix(1000, 77, 7);
  ColumnSums sums;
  add_columns(X.topRows(600), 0, "layer", sums);
  add_columns(X.bottomRows(400), 600, "layer", sums);
  ASSERT_EQ(sums.absolute.size(), 77U);
  for (int64_t k = 0; k < 77; ++k) {
    const double exact = X.col(k).cast<double>().cwiseAbs().sum();
    // Runs of at most 256 in float, then double.
    const double epsilon = std::numeric_limits<float>::epsilon();
    EXPECT_NEAR(sums.absolute[static_cast<size_t>(k)], exact, 256 * epsilon * exact);
    EXPECT_EQ(sums.largest[static_cast<size_t>(k)], X.col(k).cwiseAbs().maxCoeff());
  }
}

TEST(Hessian, InputsThatAreNotFiniteAreNamed) {
  const auto message = [](float value) {
    Matrix X = random_matrix(40, 200, 8);
    X(33, 150) = value;
    ColumnSums sums;
    try {
      add_columns(X, 1000, "model.layers.0.mlp", sums);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const std::string rest =
      " in the input at token 1033, column 150 (is the checkpoint damaged, or does the model "
      "overflow in this type?)";
  EXPECT_EQ(message(std::nanf("")), "model.layers.0.mlp: NaN" + rest);
  EXPECT_EQ(message(-std::numeric_limits<float>::infinity()),
            "model.layers.0.mlp: infinity" + rest);
  EXPECT_EQ(message(1e30F), "no error");
}

}  // namespace
}  // namespace nibble
