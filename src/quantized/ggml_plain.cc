#include "src/quantized/ggml_plain.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nibble {
namespace {

float reciprocal(float x) { return x == 0.F ? 0.F : 1.F / x; }

}  // namespace

// Magnitudes compare as integers do, which vectorises.
float extreme(std::span<const float> x) {
  const auto magnitude = [](float value) { return std::bit_cast<int32_t>(value) & 0x7FFFFFFF; };
  int32_t largest = 0;
  for (const float value : x) largest = std::max(largest, magnitude(value));
  if (largest == 0) return 0.F;
  return *std::ranges::find(x, largest, magnitude);
}

PlainFit fit_signed(std::span<const float> x, int bits, uint8_t* codes) {
  const int half = 1 << (bits - 1);
  const float d = extreme(x) / static_cast<float>(-half);
  const float inverse = reciprocal(d);
  const float offset = static_cast<float>(half) + 0.5F;
  for (size_t i = 0; i < x.size(); ++i) {
    codes[i] =
        static_cast<uint8_t>(std::min(2 * half - 1, static_cast<int>(x[i] * inverse + offset)));
  }
  return {.scale = d};
}

PlainFit fit_between(std::span<const float> x, int bits, uint8_t* codes) {
  const auto [low, high] = std::ranges::minmax(x);
  const int last = (1 << bits) - 1;
  const float d = (high - low) / static_cast<float>(last);
  const float inverse = reciprocal(d);
  for (size_t i = 0; i < x.size(); ++i) {
    codes[i] =
        static_cast<uint8_t>(std::min(last, static_cast<int>((x[i] - low) * inverse + 0.5F)));
  }
  return {.scale = d, .minimum = low};
}

PlainFit fit_bytes(std::span<const float> x, uint8_t* codes) {
  const float d = std::fabs(extreme(x)) / 127.F;
  const float inverse = reciprocal(d);
  for (size_t i = 0; i < x.size(); ++i) {
    const float scaled = x[i] * inverse;
    const int cut = static_cast<int>(scaled);
    const float rest = scaled - static_cast<float>(cut);  // exact
    codes[i] = static_cast<uint8_t>(cut + 128 + (rest >= 0.5F ? 1 : 0) - (rest <= -0.5F ? 1 : 0));
  }
  return {.scale = d};
}

PlainFit fit_e2m1(std::span<const float> x, uint8_t* codes) {
  constexpr std::array kBorders = {0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.F};
  const float largest = std::fabs(extreme(x));
  const int exponent = largest > 0.F ? static_cast<int>(std::floor(std::log2(largest))) - 2 : -127;
  const float d = std::ldexp(1.F, std::max(exponent, -127));
  for (size_t i = 0; i < x.size(); ++i) {
    int code = 0;
    for (const float border : kBorders) code += std::fabs(x[i]) > border * d ? 1 : 0;
    codes[i] = static_cast<uint8_t>(code + (x[i] < 0.F && code > 0 ? 8 : 0));
  }
  return {.scale = d};
}

}  // namespace nibble
