#include "kernels/matmul.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <tuple>
#include <utility>

#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// y - x W' for every element, against float64; sums of K products in any order.
void expect_product(const Matrix& x, const Matrix& w, const Matrix& start, const Matrix& y) {
  const Eigen::MatrixXd exact =
      x.cast<double>() * w.cast<double>().transpose() + start.cast<double>();
  const Eigen::MatrixXd size =
      x.cwiseAbs().cast<double>() * w.cwiseAbs().cast<double>().transpose() +
      start.cwiseAbs().cast<double>();
  const double unit = static_cast<double>(x.cols() + 1) * 0x1p-24;
  for (int64_t t = 0; t < y.rows(); ++t) {
    for (int64_t n = 0; n < y.cols(); ++n) {
      ASSERT_NEAR(y(t, n), exact(t, n), unit * size(t, n)) << "row " << t << ", output " << n;
    }
  }
}

constexpr std::array kBoth = {Products::kFloat, Products::kFixed};

class Matmul : public testing::TestWithParam<std::tuple<int64_t, int64_t, int64_t>> {};

INSTANTIATE_TEST_SUITE_P(Shapes, Matmul,
                         testing::Values(std::tuple(1, 1, 1), std::tuple(1, 300, 64),
                                         std::tuple(3, 33, 385), std::tuple(128, 64, 384),
                                         std::tuple(129, 31, 1000), std::tuple(300, 200, 96),
                                         std::tuple(20, 40, 1024), std::tuple(20, 256, 1300)));

TEST_P(Matmul, EqualsFloat64) {
  const auto [T, N, K] = GetParam();
  srand(1);
  const Matrix x = Matrix::Random(T, K);
  const Matrix w = Matrix::Random(N, K);
  const PanelMatrix panels = make_panels(w);
  Matrix y = Matrix::Constant(T, N, 1e9f);
  matmul(x, panels, y);
  expect_product(x, w, Matrix::Zero(T, N), y);
  const Matrix start = Matrix::Random(T, N);
  y = start;
  matmul(x, panels, y, Accumulate::kYes);
  expect_product(x, w, start, y);
}

TEST_P(Matmul, TheOtherRowsAndTheThreadsDoNotMatter) {
  const auto [T, N, K] = GetParam();
  srand(2);
  const Matrix x = Matrix::Random(T, K);
  const Matrix weights = Matrix::Random(N, K);
  for (const Products products : kBoth) {
    const PanelMatrix w = make_panels(weights, products);
    Matrix all(T, N);
    matmul(x, w, all);
    for (const int threads : {1, 3}) {
      const int before = omp_get_max_threads();
      omp_set_num_threads(threads);
      Matrix y(T, N);
      matmul(x, w, y);
      omp_set_num_threads(before);
      EXPECT_EQ(y, all) << threads << " threads";
    }
    Matrix inside(T, N);
#pragma omp parallel
#pragma omp single
    matmul(x, w, inside);
    EXPECT_EQ(inside, all);
    for (int64_t t = 0; t < T; t += 9) {
      Matrix row(1, N);
      matmul(x.row(t), w, row);
      ASSERT_EQ(row, all.row(t)) << t;
    }
  }
}

TEST(Matmul, BlocksOfLargerMatricesStayInsideThem) {
  srand(3);
  const Matrix x = Matrix::Random(40, 1024);
  const Matrix w = Matrix::Random(50, 100);
  Matrix y = Matrix::Constant(42, 60, 5.f);
  matmul(x.middleCols(7, 100), make_panels(w), y.block(1, 3, 40, 50));
  expect_product(x.middleCols(7, 100), w, Matrix::Zero(40, 50), y.block(1, 3, 40, 50));
  y.block(1, 3, 40, 50).setConstant(5.f);
  EXPECT_EQ(y, Matrix::Constant(42, 60, 5.f));
}

TEST(Matmul, ColumnsAreThoseOfTheWholeProduct) {
  srand(4);
  const Matrix x = Matrix::Random(9, 70);
  const Matrix weights = Matrix::Random(150, 70);
  for (const Products products : kBoth) {
    const PanelMatrix w = make_panels(weights, products);
    Matrix all(9, 150);
    matmul(x, w, all);
    for (const auto& [first, count] : {std::pair(0, 64), std::pair(64, 40), std::pair(128, 22)}) {
      Matrix some(9, count);
      matmul_columns(x, w, first, some);
      EXPECT_EQ(some, all.middleCols(first, count)) << first;
    }
  }
}

TEST(Panels, StoredTypesAndOrientationsGiveTheSamePanels) {
  srand(5);
  Matrix w = Matrix::Random(70, 145);
  for (float& value : w.reshaped()) value = round_to(value, Dtype::kF16);
  const Matrix transposed = w.transpose();
  for (const Products products : kBoth) {
    const PanelMatrix expected = make_panels(w, products);
    EXPECT_EQ(expected.is_fixed(), products == Products::kFixed);
    for (const Dtype dtype : {Dtype::kF16, Dtype::kF32}) {
      for (const bool turn : {false, true}) {
        const Matrix& source = turn ? transposed : w;
        Tensor tensor = Tensor::allocate(dtype, {source.rows(), source.cols()});
        from_float({source.data(), static_cast<size_t>(source.size())}, dtype,
                   tensor.mutable_bytes());
        const PanelMatrix panels = make_panels(tensor.view(), turn, products);
        const std::string what = std::string(dtype_name(dtype)) + (turn ? " transposed" : "");
        EXPECT_EQ(panels.N, 70);
        EXPECT_EQ(panels.K, 145);
        EXPECT_TRUE(std::ranges::equal(panels.values.bytes(), expected.values.bytes())) << what;
        EXPECT_TRUE(std::ranges::equal(panels.scales.bytes(), expected.scales.bytes())) << what;
      }
    }
  }
}

TEST(AddRow, AddsToEveryRow) {
  Matrix y = Matrix::Constant(3, 35, 1.f);
  const Vector row = Vector::LinSpaced(35, 0.f, 34.f);
  add_row(row, y.middleCols(0, 35));
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t n = 0; n < 35; ++n) EXPECT_EQ(y(t, n), 1.f + static_cast<float>(n));
  }
}

}  // namespace
}  // namespace nibble
