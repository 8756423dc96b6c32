// Folding: where the division of inputs by scales goes, so that it costs nothing at inference: into
// the norm before the layers, or into the rows of a linear layer that feeds them.
#pragma once

#include <cstdint>
#include <vector>

#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct FoldedNorm {
  Vector weight;        // [K] as stored
  Vector bias;          // [K] as stored, or empty
  Vector scales;        // [K] what the norm's outputs are divided by, exactly
  int64_t limited = 0;  // channels whose scale is not the one asked for, but for rounding
  // Largest change of a channel's bias, |bias as stored * scale - bias|: its rounding to the stored
  // type, at most |bias| / 2^11 in F16 and |bias| / 2^8 in BF16 (where it is not subnormal).
  double bias_error = 0;
};

// A norm's weight and bias [K] divided by scales [K], finite and > 0. The weight is rounded to its
// stored type first and the scales are then what that did, old weight / new weight, so that the
// block's function changes by float rounding alone; but for the bias, which is rounded to its type.
// A quotient outside the type's range takes the value at the end of it; a weight of 0 has scale 1.
FoldedNorm fold_into_norm(const Vector& weight, const Vector& bias, const Vector& scales,
                          Dtype stored);

// The input of the attention's output layer that reads row `row` of the values, for every one of
// its heads * head_size inputs: query head h reads key and value head h / (heads /
// key_value_heads).
std::vector<int32_t> value_row_of_input(int64_t heads, int64_t key_value_heads, int64_t head_size);

}  // namespace nibble
