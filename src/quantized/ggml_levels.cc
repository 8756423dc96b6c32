#include "src/quantized/ggml_levels.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "src/quantized/ggml_plain.h"
#include "src/quantized/ggml_symmetric.h"

namespace nibble {
namespace {

uint8_t nearest_level(std::span<const float> levels, float x) {
  if (x <= levels.front()) return 0;
  if (x >= levels.back()) return static_cast<uint8_t>(levels.size() - 1);
  const auto above = std::upper_bound(levels.begin(), levels.end(), x);
  const auto at = static_cast<uint8_t>(above - levels.begin());
  return x - *(above - 1) < *above - x ? static_cast<uint8_t>(at - 1) : at;
}

// For the scale s = xq / qq the error is sum w x^2 - s xq.
struct Sums {
  float xq = 0.F;
  float qq = 0.F;
};

}  // namespace

float fit_levels(std::span<const float> x, std::span<const float> weights,
                 std::span<const float> levels) {
  constexpr int kTries = 7;
  const float largest = extreme(x);
  if (std::fabs(largest) < kNothing) return 0.F;
  const auto sums_at = [&](float inverse) {
    Sums sums;
    for (size_t i = 0; i < x.size(); ++i) {
      const float q = levels[nearest_level(levels, inverse * x[i])];
      sums.xq += weights[i] * q * x[i];
      sums.qq += weights[i] * q * q;
    }
    return sums;
  };
  const Sums first = sums_at(1.F / (-largest / levels.front()));
  float scale = first.qq > 0.F ? first.xq / first.qq : 0.F;
  float most = scale * first.xq;
  for (int t = -kTries; t <= kTries; ++t) {
    const Sums sums = sums_at((static_cast<float>(t) + levels.front()) / largest);
    if (sums.qq > 0.F && sums.xq * sums.xq > most * sums.qq) {
      scale = sums.xq / sums.qq;
      most = scale * sums.xq;
    }
  }
  return scale;
}

void code_levels(std::span<const float> x, std::span<const float> levels, float scale,
                 uint8_t* codes) {
  const float inverse = scale == 0.F ? 0.F : 1.F / scale;
  for (size_t i = 0; i < x.size(); ++i) codes[i] = nearest_level(levels, inverse * x[i]);
}

}  // namespace nibble
