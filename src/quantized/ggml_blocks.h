// Blocks of llama.cpp's types, as src/quantized/ggml_fit.h makes them: what a row of blocks, or a
// block of 256, becomes. Private to src/quantized.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "src/quantized/ggml_affine.h"
#include "src/quantized/ggml_groups.h"
#include "src/quantized/ggml_schemes.h"

namespace nibble {

using GgmlWeights = std::span<const float>;

// Where the parameters of a layer go; block b of a type begins at its b-th value, or group.
struct GgmlOutput {
  uint8_t* codes = nullptr;    // [N, K]
  std::byte* scale = nullptr;  // as QuantizedLinear::scale.values and .second, and so on
  uint16_t* scale_second = nullptr;
  std::byte* minimum = nullptr;
  uint16_t* minimum_second = nullptr;
};

// importance: of the same columns; empty: none.
// A row of types with blocks of 32, the first of which is block b.
void quantize_plain_row(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance, int64_t b,
                        const GgmlOutput& out);
// Block b of Q3_K, Q6_K or IQ4_XS, and of Q2_K, Q4_K or Q5_K.
void quantize_symmetric(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance, int64_t b,
                        const GgmlOutput& out);
void quantize_affine(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance, int64_t b,
                     const GgmlOutput& out);

// ---- what they share ----------------------------------------------------------------------------

// To nearest even, for magnitudes below 2^22.
inline int nearest_integer(float x) {
  return std::bit_cast<int32_t>(x + kRoundingShift) - std::bit_cast<int32_t>(kRoundingShift);
}

// What the errors of up to 256 weights count.
using GgmlWeighing = std::array<float, kSuperBlock>;

inline float mean_square(GgmlWeights x) {
  float sum = 0.F;
  for (const float value : x) sum += value * value;
  return sum / static_cast<float>(x.size());
}

// With importance: importance * sqrt(spread + x^2).
inline void weigh(GgmlWeights x, GgmlWeights importance, float spread, float* weights) {
  for (size_t i = 0; i < x.size(); ++i) {
    weights[i] = importance[i] * std::sqrt(spread + x[i] * x[i]);
  }
}

// Sums over the groups of a block of 256.
template <size_t kGroups>
void add_groups(const GgmlWeighing& weights, std::array<float, kGroups>& mass) {
  constexpr size_t kWidth = kSuperBlock / kGroups;
  for (size_t g = 0; g < kGroups; ++g) {
    mass[g] = 0.F;
    for (size_t i = 0; i < kWidth; ++i) mass[g] += weights[g * kWidth + i];
  }
}

// The search of scale and minimum with importance: 37 ranges, finer than without.
inline AffineSearch fine_search(int last) {
  return {
      .last = last, .first = -0.9F, .step = 0.05F, .steps = 36, .weights = GroupWeights::kGiven};
}

}  // namespace nibble
