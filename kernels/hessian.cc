#include "kernels/hessian.h"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/blas.h"
#include "kernels/blas_tile.h"
#include "kernels/matmul.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int64_t kColumns = 64;   // columns per task of add_columns: a few cache lines of a row
constexpr int64_t kSumRows = 256;  // tokens whose |x| are summed in float: relative error 2^-16

// Columns per tile. Large tiles run BLAS at full speed, small ones leave work for every thread.
int64_t tile_columns(int64_t K) {
  if (K >= 2048) return 512;
  if (K >= 768) return 256;
  return K >= 256 ? 128 : 64;
}

// c [columns of a, columns of b] += a' b
void add_product(ConstMatrixRef a, ConstMatrixRef b, MatrixRef c) {
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, blas(a.cols()), blas(b.cols()),
              blas(a.rows()), 1.f, a.data(), blas(a.outerStride()), b.data(), blas(b.outerStride()),
              1.f, c.data(), blas(c.outerStride()));
}

void add_square(ConstMatrixRef a, MatrixRef c) {
  cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, blas(a.cols()), blas(a.rows()), 1.f, a.data(),
              blas(a.outerStride()), 1.f, c.data(), blas(c.outerStride()));
}

[[noreturn]] void fail(ConstMatrixRef X, int64_t first_token, const std::string& where) {
  for (int64_t t = 0; t < X.rows(); ++t) {
    for (int64_t k = 0; k < X.cols(); ++k) {
      if (std::isfinite(X(t, k))) continue;
      throw Error(where,
                  std::string(std::isnan(X(t, k)) ? "NaN" : "infinity") +
                      " in the input at token " + std::to_string(first_token + t) + ", column " +
                      std::to_string(k),
                  "is the checkpoint damaged, or does the model overflow in this type?");
    }
  }
  throw Error(where, "the sum of inputs overflows");
}

// Columns [first, first + width) of X. Returns whether all are finite.
bool add_column_block(ConstMatrixRef X, int64_t first, int64_t width, double* absolute,
                      float* largest) {
  std::array<float, kColumns> poison{};  // 0 * x: NaN after NaN or infinity
  for (int64_t t = 0; t < X.rows(); t += kSumRows) {
    std::array<float, kColumns> sum{};
    const int64_t end = std::min(X.rows(), t + kSumRows);
    for (int64_t row = t; row < end; ++row) {
      const float* x = X.data() + row * X.outerStride() + first;
      for (int64_t k = 0; k < width; ++k) {
        const auto at = static_cast<size_t>(k);
        const float magnitude = std::fabs(x[k]);
        sum[at] += magnitude;
        largest[k] = std::max(largest[k], magnitude);
        poison[at] += 0.f * x[k];
      }
    }
    for (int64_t k = 0; k < width; ++k) {
      absolute[k] += static_cast<double>(sum[static_cast<size_t>(k)]);
    }
  }
  return std::all_of(poison.begin(), poison.end(), [](float p) { return p == 0.f; });
}

}  // namespace

void add_gram(ConstMatrixRef X, MatrixRef sum) {
  assert(sum.rows() == X.cols() && sum.cols() == X.cols());
  const int64_t size = tile_columns(X.cols());
  const int64_t tiles = (X.cols() + size - 1) / size;
  // Tiles of the triangle row by row: number i + j (j + 1) / 2 is (i, j), i <= j.
#pragma omp parallel for schedule(dynamic)
  for (int64_t tile = 0; tile < tiles * (tiles + 1) / 2; ++tile) {
    int64_t j = 0;
    while ((j + 1) * (j + 2) / 2 <= tile) ++j;
    const int64_t i = tile - j * (j + 1) / 2;
    const int64_t rows = std::min(size, X.cols() - i * size);
    const int64_t columns = std::min(size, X.cols() - j * size);
    const auto target = sum.block(i * size, j * size, rows, columns);
    if (i == j) {
      add_square(X.middleCols(i * size, rows), target);
    } else {
      add_product(X.middleCols(i * size, rows), X.middleCols(j * size, columns), target);
    }
  }
}

void add_cross(ConstMatrixRef X0, ConstMatrixRef X, MatrixRef sum) {
  assert(X0.rows() == X.rows() && sum.rows() == X0.cols() && sum.cols() == X.cols());
  const int64_t size = tile_columns(std::min(X0.cols(), X.cols()));
  const int64_t down = (X0.cols() + size - 1) / size;
  const int64_t across = (X.cols() + size - 1) / size;
#pragma omp parallel for schedule(dynamic)
  for (int64_t tile = 0; tile < down * across; ++tile) {
    const int64_t i = tile / across * size;
    const int64_t j = tile % across * size;
    const int64_t rows = std::min(size, X0.cols() - i);
    const int64_t columns = std::min(size, X.cols() - j);
    add_product(X0.middleCols(i, rows), X.middleCols(j, columns), sum.block(i, j, rows, columns));
  }
}

void mirror_upper(MatrixRef H) {
  constexpr int64_t kTile = 64;
  assert(H.rows() == H.cols());
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < H.rows(); i += kTile) {
    const int64_t rows = std::min(kTile, H.rows() - i);
    for (int64_t j = 0; j <= i; j += kTile) {
      const int64_t columns = std::min(kTile, H.cols() - j);
      for (int64_t row = i; row < i + rows; ++row) {
        for (int64_t k = j; k < std::min(j + columns, row); ++k) H(row, k) = H(k, row);
      }
    }
  }
}

double quadratic_form(ConstMatrixRef E, ConstMatrixRef H) {
  constexpr int64_t kRows = 128;
  constexpr int64_t kBlock = 512;
  assert(E.cols() == H.rows() && H.rows() == H.cols());
  const int64_t K = E.cols();
  std::vector<double> sums(static_cast<size_t>((E.rows() + kRows - 1) / kRows));
#pragma omp parallel for schedule(dynamic)
  for (int64_t row = 0; row < E.rows(); row += kRows) {
    const auto e = E.middleRows(row, std::min(kRows, E.rows() - row));
    double sum = 0.;
    Matrix product(e.rows(), K);
    for (int64_t k = 0; k < K; k += kBlock) {
      const int64_t columns = std::min(kBlock, K - k);
      // The block's columns against themselves, and, twice, against those after them.
      const int64_t after = k + columns;
      multiply_tile(e.middleCols(k, columns), H.block(k, k, columns, K - k),
                    product.rightCols(K - k), Accumulate::kNo);
      for (int64_t i = 0; i < e.rows(); ++i) {
        sum += double{product.row(i).segment(k, columns).dot(e.row(i).segment(k, columns))};
        sum += 2. * double{product.row(i).tail(K - after).dot(e.row(i).tail(K - after))};
      }
    }
    sums[static_cast<size_t>(row / kRows)] = sum;
  }
  return std::accumulate(sums.begin(), sums.end(), 0.);
}

void add_columns(ConstMatrixRef X, int64_t first_token, const std::string& where,
                 ColumnSums& sums) {
  const int64_t K = X.cols();
  sums.absolute.resize(static_cast<size_t>(K));
  sums.largest.resize(static_cast<size_t>(K));
  bool finite = true;
#pragma omp parallel for schedule(static) reduction(&& : finite)
  for (int64_t first = 0; first < K; first += kColumns) {
    const bool good = add_column_block(X, first, std::min(kColumns, K - first),
                                       sums.absolute.data() + first, sums.largest.data() + first);
    finite = finite && good;
  }
  if (!finite) fail(X, first_token, where);
}

}  // namespace nibble
