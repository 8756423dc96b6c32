// int8_matmul: y = x W' with 8-bit integer weights and activations that are quantized on the way,
// on real integers: exact sums in int32, then scales.
//
//   q[t, k] = clamp(rne(x[t, k] / s_t) + z, -128, 127)
//   y[t, n] = (sum_k q[t, k] w[n, k] - z sum_k w[n, k]) * s_t * s_n
// s_t as quantized_matmul_reference (src/quantized/quantized_linear.h), which specifies it:
// dynamic, of the token or of all of x, or the stored one. The integer sums are the same bits on
// every path; oneDNN's signed 8-bit product is used nowhere, for without VNNI it saturates.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/matmul.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {

struct Int8Path;

// The run-time form of a QuantizedLinear with quantized activations.
struct Int8Linear {
  int64_t N = 0;
  int64_t K = 0;
  const Int8Path* path = nullptr;
  Tensor weights;            // as the path reads them
  std::vector<float> scale;  // [N]
  std::vector<int32_t> sum;  // [N] of the integer weights of a row
  ActivationScheme activations;
  float input_scale = 1.F;  // static activations
  int32_t input_zero = 0;   // likewise

  int64_t bytes() const;  // of all arrays
};

// Symmetric 8-bit integer weights with one scale a row or one altogether, or progressive groups
// (src/quantized/second_level.h), whose 8-bit products with their scales are the weights then;
// integer activations of 8 bits, K at most 65,536 (the sums must fit in int32).
bool can_run_int8(const QuantizedLinear& q);
// Throws Error when !can_run_int8(q).
Int8Linear make_int8(const QuantizedLinear& q);

// x [T, K] -> y [T, N], added to what is there if asked. Uses all threads, or the calling one
// inside a parallel region; same bits for any number of them. With per-tensor dynamic activations
// x must be the whole input.
void int8_matmul(ConstMatrixRef x, const Int8Linear& w, MatrixRef y,
                 Accumulate accumulate = Accumulate::kNo);
// Only the outputs [first, first + y.cols()); first is a multiple of 32.
void int8_matmul_columns(ConstMatrixRef x, const Int8Linear& w, int64_t first, MatrixRef y,
                         Accumulate accumulate = Accumulate::kNo);

// What quantized activations do to x [T, K], in float: s_t (q - z), for integers to compare with;
// floats are run so (src/quantized/float_inputs.h).
Matrix simulate_activations(ConstMatrixRef x, const ActivationScheme& scheme, float input_scale,
                            int32_t input_zero);

}  // namespace nibble
