// matmul: y = x W', the product of a linear layer, in float.
//
// The work is cut into tiles whose shape depends on the problem alone, each tile one
// single-threaded BLAS call, so that the result has the same bits for any number of threads. Called
// inside a parallel region it runs on the calling thread.
#pragma once

#include <cstdint>

#include "src/tensor/matrix.h"

namespace nibble {

enum class Accumulate { kNo, kYes };

// x [T, K], w [N, K] -> y [T, N], added to what is there if asked.
void matmul(ConstMatrixRef x, ConstMatrixRef w, MatrixRef y,
            Accumulate accumulate = Accumulate::kNo);

// y[t] += row for every row of y [T, N].
void add_row(Eigen::Ref<const Vector> row, MatrixRef y);

// One BLAS call on the calling thread: c = a b' or a b (+ c). Only inside a parallel region, or
// where one thread is all there is: elsewhere BLAS would start its own threads.
void matmul_tile(ConstMatrixRef a, ConstMatrixRef b_rows, MatrixRef c, Accumulate accumulate);
void matmul_tile_plain(ConstMatrixRef a, ConstMatrixRef b, MatrixRef c, Accumulate accumulate);

}  // namespace nibble
