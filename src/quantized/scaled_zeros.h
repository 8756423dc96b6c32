// Zero points multiplied by their scale, as kernels want them that compute code * scale + product:
// -(scale * zero), rounded to the scale's type. The zero point is a small whole number, so that the
// rounded product still tells it.
#pragma once

#include <cstdint>

#include "src/tensor/tensor.h"

namespace nibble {

// scales: a float type; zeros: U8 of the same shape.
Tensor scaled_zeros(const Tensor& scales, const Tensor& zeros);

struct UnscaledZeros {
  Tensor zeros;              // U8; 8 where the scale is 0 or not finite
  int64_t first_unfit = -1;  // element that is no such product; -1: all are
};

// The zero points 0 to 15 of 4-bit codes that scaled_zeros gives these products for.
UnscaledZeros unscaled_zeros(const Tensor& scales, const Tensor& scaled);

}  // namespace nibble
