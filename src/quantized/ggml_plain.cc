#include "src/quantized/ggml_plain.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "src/quantized/vector_clones.h"

// Loops over the 32 weights of a block, of a constant length, become vectors of whatever width.
#define NIBBLE_INLINE [[gnu::always_inline]] inline

namespace nibble {
namespace {

constexpr float kHalf = 0.5F;

NIBBLE_INLINE float reciprocal(float x) { return x == 0.F ? 0.F : 1.F / x; }

// Magnitudes compare as integers do.
NIBBLE_INLINE int32_t magnitude(float x) { return std::bit_cast<int32_t>(x) & 0x7FFFFFFF; }

NIBBLE_INLINE float largest_magnitude(const float* x) {
  int32_t largest = 0;
  for (int64_t i = 0; i < kPlainBlock; ++i) largest = std::max(largest, magnitude(x[i]));
  return std::bit_cast<float>(largest);
}

// Integers in the order of the floats, and back; -0 comes before 0.
NIBBLE_INLINE int32_t place(float x) {
  const auto bits = std::bit_cast<int32_t>(x);
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}
NIBBLE_INLINE float at_place(int32_t place) {
  return std::bit_cast<float>(place ^ ((place >> 31) & 0x7FFFFFFF));
}

struct Range {
  float low;
  float high;
};

NIBBLE_INLINE Range range_of(const float* x) {
  int32_t lowest = place(x[0]);
  int32_t highest = lowest;
  for (int64_t i = 1; i < kPlainBlock; ++i) {
    lowest = std::min(lowest, place(x[i]));
    highest = std::max(highest, place(x[i]));
  }
  return {at_place(lowest), at_place(highest)};
}

// As extreme().
NIBBLE_INLINE float extreme_of(const float* x) {
  const auto [low, high] = range_of(x);
  if (high == -low) return extreme({x, kPlainBlock});
  return high > -low ? high : low;
}

// fit(block of x, its codes) -> PlainFit.
template <typename Fit>
NIBBLE_INLINE void fit_blocks(std::span<const float> x, uint8_t* codes, PlainFit* fits,
                              const Fit& fit) {
  for (size_t k = 0; k < x.size(); k += kPlainBlock) *fits++ = fit(x.data() + k, codes + k);
}

}  // namespace

float extreme(std::span<const float> x) {
  const float largest = *std::ranges::max_element(x, {}, magnitude);
  return largest == 0.F ? 0.F : largest;
}

NIBBLE_VECTOR_CLONES void fit_signed(std::span<const float> x, int bits, uint8_t* codes,
                                     PlainFit* fits) {
  const int half = 1 << (bits - 1);
  const int last = 2 * half - 1;
  const float offset = static_cast<float>(half) + 0.5F;
  fit_blocks(x, codes, fits, [=](const float* block, uint8_t* code) -> PlainFit {
    const float d = extreme_of(block) / static_cast<float>(-half);
    const float inverse = reciprocal(d);
    for (int64_t i = 0; i < kPlainBlock; ++i) {
      code[i] = static_cast<uint8_t>(std::min(last, static_cast<int>(block[i] * inverse + offset)));
    }
    return {.scale = d};
  });
}

NIBBLE_VECTOR_CLONES void fit_between(std::span<const float> x, int bits, uint8_t* codes,
                                      PlainFit* fits) {
  const int last = (1 << bits) - 1;
  fit_blocks(x, codes, fits, [=](const float* block, uint8_t* code) -> PlainFit {
    auto [low, high] = range_of(block);
    if (low == 0.F) low = *std::find(block, block + kPlainBlock, 0.F);  // or -0, the first of them
    const float d = (high - low) / static_cast<float>(last);
    const float inverse = reciprocal(d);
    for (int64_t i = 0; i < kPlainBlock; ++i) {
      const float level = (block[i] - low) * inverse + kHalf;
      code[i] = static_cast<uint8_t>(std::min(last, static_cast<int>(level)));
    }
    return {.scale = d, .minimum = low};
  });
}

NIBBLE_VECTOR_CLONES void fit_bytes(std::span<const float> x, uint8_t* codes, PlainFit* fits) {
  fit_blocks(x, codes, fits, [](const float* block, uint8_t* code) -> PlainFit {
    const float d = largest_magnitude(block) / 127.F;
    const float inverse = reciprocal(d);
    for (int64_t i = 0; i < kPlainBlock; ++i) {
      const float scaled = block[i] * inverse;
      const int cut = static_cast<int>(scaled);
      const float rest = scaled - static_cast<float>(cut);  // exact
      code[i] = static_cast<uint8_t>(cut + 128 + (rest >= 0.5F ? 1 : 0) - (rest <= -0.5F ? 1 : 0));
    }
    return {.scale = d};
  });
}

NIBBLE_VECTOR_CLONES void fit_e2m1(std::span<const float> x, uint8_t* codes, PlainFit* fits) {
  constexpr std::array kBorders = {0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.F};
  fit_blocks(x, codes, fits, [&](const float* block, uint8_t* code) -> PlainFit {
    const float largest = largest_magnitude(block);
    const int exponent =
        largest > 0.F ? static_cast<int>(std::floor(std::log2(largest))) - 2 : -127;
    const float d = std::ldexp(1.F, std::max(exponent, -127));
    for (int64_t i = 0; i < kPlainBlock; ++i) {
      int level = 0;
      for (const float border : kBorders) level += std::fabs(block[i]) > border * d ? 1 : 0;
      code[i] = static_cast<uint8_t>(level + (block[i] < 0.F && level > 0 ? 8 : 0));
    }
    return {.scale = d};
  });
}

}  // namespace nibble
