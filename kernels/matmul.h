// matmul: y = x W', the product of a linear layer, in float.
//
// Weights are arranged once, when they are loaded, in the order in which the product reads them:
// for tiles of a few hundred tokens that is 12-25 % faster than a BLAS, which arranges them anew in
// every call. An output is one sum in the order of K, whatever the tiles, so that neither the
// number of threads nor the other rows of x change its bits.
#pragma once

#include <cstdint>

#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {

// W [N, K] in panels of 32 rows, [N/32 rounded up, K, 32]; rows beyond N are zero.
struct PanelMatrix {
  int64_t N = 0;
  int64_t K = 0;
  Tensor values;  // F32; empty: no matrix

  bool empty() const { return values.empty(); }
  const float* panel(int64_t index) const;
};

// w: a float type, [N, K], or [K, N] if transposed. Uses all threads.
PanelMatrix make_panels(const TensorView& w, bool transposed = false);
PanelMatrix make_panels(const Matrix& w);  // [N, K]

enum class Accumulate { kNo, kYes };

// x [T, K] -> y [T, N], added to what is there if asked. Uses all threads, or the calling one
// inside a parallel region.
void matmul(ConstMatrixRef x, const PanelMatrix& w, MatrixRef y,
            Accumulate accumulate = Accumulate::kNo);
// Only the outputs [first, first + y.cols()); first is a multiple of 32.
void matmul_columns(ConstMatrixRef x, const PanelMatrix& w, int64_t first, MatrixRef y);

// y[t] += row for every row of y [T, N].
void add_row(Eigen::Ref<const Vector> row, MatrixRef y);

}  // namespace nibble
