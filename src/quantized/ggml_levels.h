// The search of one scale for groups of 32 weights on uneven levels: quantize_row_iq4_nl_impl of
// ggml-quants.c (I. Kawrakow) for several groups side by side. Private to src/quantized.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace nibble {

inline constexpr size_t kLevelGroups = 8;
inline constexpr size_t kLevelGroup = 32;  // weights

// x, weights (null: x^2): group after group, [kLevelGroups][kLevelGroup]; levels: ascending whole
// numbers. Of 16 scales around the one that puts the extreme on the first level, each mended by
// weighted least squares, the one of least error; 0 for nothing.
void fit_levels(const float* x, const float* weights, std::span<const float> levels,
                std::span<float, kLevelGroups> scales);

// codes [x.size()]: the nearest of the levels; of two as near the upper.
void code_levels(std::span<const float> x, std::span<const float> levels, float scale,
                 uint8_t* codes);

}  // namespace nibble
