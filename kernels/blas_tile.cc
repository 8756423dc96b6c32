#include "kernels/blas_tile.h"

#include <algorithm>
#include <cassert>
#include <cstdint>

#include "kernels/blas.h"
#include "kernels/matmul.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

// BLAS wants at least 1 even of an empty matrix.
blasint stride(int64_t n) { return static_cast<blasint>(std::max<int64_t>(n, 1)); }

}  // namespace

void multiply_tile(ConstMatrixRef a, ConstMatrixRef b, MatrixRef c, Accumulate accumulate) {
  assert(a.rows() == c.rows() && a.cols() == b.rows() && b.cols() == c.cols());
  if (c.size() == 0) return;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, blas(a.rows()), blas(b.cols()),
              blas(a.cols()), 1.f, a.data(), stride(a.outerStride()), b.data(),
              stride(b.outerStride()), accumulate == Accumulate::kYes ? 1.f : 0.f, c.data(),
              stride(c.outerStride()));
}

}  // namespace nibble
