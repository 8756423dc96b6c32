// The search of one scale for a group of weights on uneven levels: quantize_row_iq4_nl_impl of
// ggml-quants.c (I. Kawrakow). Private to src/quantized.
#pragma once

#include <cstdint>
#include <span>

namespace nibble {

// x, weights: [columns]; levels: ascending. Of 16 scales around the one that puts the extreme on
// the first level, each mended by weighted least squares, the one of least error; 0 for nothing.
float fit_levels(std::span<const float> x, std::span<const float> weights,
                 std::span<const float> levels);

// codes [columns]: the nearest of the levels; of two as near the upper.
void code_levels(std::span<const float> x, std::span<const float> levels, float scale,
                 uint8_t* codes);

}  // namespace nibble
