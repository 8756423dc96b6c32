// matmul: y = x W', the product of a linear layer, in float or in fixed point.
//
// Weights are arranged once, when they are loaded, in the order in which the product reads them:
// for tiles of a few hundred tokens that is 12-25 % faster than a BLAS, which arranges them anew in
// every call. An output is one sum in the order of K, whatever the tiles, so that neither the
// number of threads nor the other rows of x change its bits.
//
// In fixed point (kernels/fixed_paths.h) x and W are rounded to 16-bit integers in groups of 128 of
// K: outputs are off by 1e-4 of the product of the groups' norms, 15 times less than with BF16.
// Where the CPU has VNNI this is nearly twice as fast as float. It suits the measurement of a
// model, and gradients that are compared with half a step of a code (quantizers/solvers/refine.h).
// All instruction sets give the same bits.
#pragma once

#include <cstdint>
#include <iterator>

#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {

enum class Products { kFloat, kFixed };

// Whether fixed point is faster than float here.
bool has_fast_fixed_products();

// W [N, K] in panels of 32 rows; rows beyond N are zero.
struct PanelMatrix {
  int64_t N = 0;
  int64_t K = 0;
  // F32 [N/32 rounded up, K, 32]; fixed point: I16 [N/32 rounded up, K/2 rounded up, 32, 2], an odd
  // K's last input is zero. Empty: no matrix.
  Tensor values;
  Tensor scales;  // fixed point: F32 [N/32 rounded up, K/128 rounded up, 32], else empty

  bool empty() const { return values.empty(); }
  bool is_fixed() const { return !scales.empty(); }
  int64_t bytes() const { return std::ssize(values.bytes()) + std::ssize(scales.bytes()); }
};

// w: a float type, [N, K], or [K, N] if transposed. Uses all threads.
PanelMatrix make_panels(const TensorView& w, bool transposed = false,
                        Products products = Products::kFloat);
PanelMatrix make_panels(const Matrix& w, Products products = Products::kFloat);  // [N, K]

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
