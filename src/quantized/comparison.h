// A quantized layer beside the weights it was made of.
#pragma once

#include <cstdint>

#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct Comparison {
  double weights = 0.;  // |W|^2, Frobenius norm
  double error = 0.;    // |W - dequantize(q)|^2
  // How many weights lie outside what the levels of their block stand for, by more than half the
  // distance of the outermost level to its neighbour and 1/512 of the block's range. The former is
  // what rounding to nearest may do, the latter what storing a scale in BF16 moves an end. Levels
  // that are NaN or infinite do not count.
  int64_t clipped = 0;
};

// W [N, K]. Sums in double, those of the rows added in order: the same for any number of threads.
Comparison compare(ConstMatrixRef W, const QuantizedLinear& q);

// |W - dequantize(q)| / |W|; 0 for W = 0.
double relative_error(const Comparison& comparison);
double relative_error(ConstMatrixRef W, const QuantizedLinear& q);

}  // namespace nibble
