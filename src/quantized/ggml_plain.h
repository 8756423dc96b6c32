// One scale, and perhaps a minimum, for a block of 32 weights by its extremes: the quantizers of
// ggml-quants.c that search nothing. Private to src/quantized.
#pragma once

#include <cstdint>
#include <span>

namespace nibble {

inline constexpr int64_t kPlainBlock = 32;  // weights

// The weight of largest magnitude, the first of several.
float extreme(std::span<const float> x);

struct PlainFit {
  float scale = 0.F;
  float minimum = 0.F;
};

// Each takes whole blocks x, and fills codes [x.size()] and fits [blocks].
// Q4_0, Q5_0: the extreme becomes the level below which there is none above.
void fit_signed(std::span<const float> x, int bits, uint8_t* codes, PlainFit* fits);
// Q4_1, Q5_1.
void fit_between(std::span<const float> x, int bits, uint8_t* codes, PlainFit* fits);
// Q8_0, halves away from zero.
void fit_bytes(std::span<const float> x, uint8_t* codes, PlainFit* fits);
// MXFP4: the power of two that puts the extreme between 4 and 8. Of two levels as near the smaller;
// codes from 8 are negative, and nothing becomes a negative zero.
void fit_e2m1(std::span<const float> x, uint8_t* codes, PlainFit* fits);

}  // namespace nibble
