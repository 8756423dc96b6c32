// Weights that lie outside what their block can represent.
#pragma once

#include <cstdint>

#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {

// How many weights of W [N, K] lie outside what the levels of their block stand for, by more than
// half the distance of the outermost level to its neighbour and 1/512 of the block's range. The
// former is what rounding to nearest may do, the latter what storing a scale in BF16 moves an end.
// Levels that are NaN or infinite do not count.
int64_t clipped_weights(ConstMatrixRef W, const QuantizedLinear& q);

}  // namespace nibble
