// One product of a tile, by BLAS on the calling thread. Only inside a parallel region: elsewhere
// BLAS starts threads of its own, and its bits depend on their number.
#pragma once

#include "kernels/matmul.h"
#include "src/tensor/matrix.h"

namespace nibble {

// c [M, N] = a [M, K] b [K, N], added to what is there if asked.
void multiply_tile(ConstMatrixRef a, ConstMatrixRef b, MatrixRef c, Accumulate accumulate);

}  // namespace nibble
