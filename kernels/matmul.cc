#include "kernels/matmul.h"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <cassert>
#include <cstdint>

#include "kernels/row_paths.h"

namespace nibble {
namespace {

// Up to so many rows of x, reading W once at memory speed beats packing it for a BLAS call.
constexpr int64_t kFewRows = 4;
constexpr int64_t kDotColumns = 64;    // outputs per task of the few-rows path
constexpr int64_t kTileRows = 256;     // x rows per tile: the packing of W is shared by them
constexpr int64_t kTileColumns = 512;  // outputs per tile

blasint blas(int64_t n) { return static_cast<blasint>(n); }

// Each weight row is read once, for all rows of x.
void matmul_few_rows(ConstMatrixRef x, ConstMatrixRef w, MatrixRef y, Accumulate accumulate) {
  const RowPath& path = row_path();
  const int64_t tasks = (w.rows() + kDotColumns - 1) / kDotColumns;
#pragma omp parallel for schedule(dynamic) if (!omp_in_parallel())
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t last = std::min(w.rows(), (task + 1) * kDotColumns);
    for (int64_t n = task * kDotColumns; n < last; ++n) {
      for (int64_t t = 0; t < x.rows(); ++t) {
        const float product = path.dot(x.row(t).data(), w.row(n).data(), x.cols());
        y(t, n) = accumulate == Accumulate::kYes ? y(t, n) + product : product;
      }
    }
  }
}

}  // namespace

void add_row(Eigen::Ref<const Vector> row, MatrixRef y) {
  assert(row.size() == y.cols());
  const RowPath& path = row_path();
  for (int64_t t = 0; t < y.rows(); ++t) path.add(row.data(), row.size(), y.row(t).data());
}

void matmul_tile(ConstMatrixRef a, ConstMatrixRef b_rows, MatrixRef c, Accumulate accumulate) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, blas(a.rows()), blas(b_rows.rows()),
              blas(a.cols()), 1.f, a.data(), blas(a.outerStride()), b_rows.data(),
              blas(b_rows.outerStride()), accumulate == Accumulate::kYes ? 1.f : 0.f, c.data(),
              blas(c.outerStride()));
}

void matmul_tile_plain(ConstMatrixRef a, ConstMatrixRef b, MatrixRef c, Accumulate accumulate) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, blas(a.rows()), blas(b.cols()),
              blas(a.cols()), 1.f, a.data(), blas(a.outerStride()), b.data(), blas(b.outerStride()),
              accumulate == Accumulate::kYes ? 1.f : 0.f, c.data(), blas(c.outerStride()));
}

void matmul(ConstMatrixRef x, ConstMatrixRef w, MatrixRef y, Accumulate accumulate) {
  assert(x.cols() == w.cols() && x.rows() == y.rows() && w.rows() == y.cols());
  if (x.rows() <= kFewRows) return matmul_few_rows(x, w, y, accumulate);
  const int64_t row_tiles = (x.rows() + kTileRows - 1) / kTileRows;
  const int64_t column_tiles = (w.rows() + kTileColumns - 1) / kTileColumns;
#pragma omp parallel for schedule(dynamic) if (!omp_in_parallel())
  for (int64_t tile = 0; tile < row_tiles * column_tiles; ++tile) {
    const int64_t t = tile / column_tiles * kTileRows;
    const int64_t n = tile % column_tiles * kTileColumns;
    const int64_t rows = std::min(kTileRows, x.rows() - t);
    const int64_t columns = std::min(kTileColumns, w.rows() - n);
    matmul_tile(x.middleRows(t, rows), w.middleRows(n, columns), y.block(t, n, rows, columns),
                accumulate);
  }
}

}  // namespace nibble
