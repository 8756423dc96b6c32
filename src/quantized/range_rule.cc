#include "src/quantized/range_rule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// Steps between the lowest and the highest code.
float steps(const Grid& grid) { return static_cast<float>((1 << grid.bits) - 1); }

float nearest_zero(float minimum, float scale) { return std::nearbyintf(-minimum / scale); }

BlockParameters fit_nibble(std::span<const float> /*weights*/, const Extremes& extremes,
                           const Grid& grid, bool symmetric) {
  const float low = std::min(extremes.smallest, 0.f);
  const float high = std::max(extremes.largest, 0.f);
  if (low == 0.f && high == 0.f) return {};
  // absmax * 2 / steps without an overflow: halving is exact.
  const float scale =
      symmetric ? std::max(-low, high) / (0.5f * steps(grid)) : (high - low) / steps(grid);
  return {.scale = scale, .minimum = low};
}

// GPTQ's find_params: symmetric ranges are mirrored only where a weight is negative, so that a
// block of positive weights gets half the scale it needs; an all-zero block is given -1 .. 1.
BlockParameters fit_gptq(std::span<const float> /*weights*/, const Extremes& extremes,
                         const Grid& grid, bool symmetric) {
  float low = std::min(extremes.smallest, 0.f);
  float high = std::max(extremes.largest, 0.f);
  if (symmetric) {
    high = std::max(-low, high);
    if (low < 0.f) low = -high;
  }
  if (low == 0.f && high == 0.f) {
    low = -1.f;
    high = 1.f;
  }
  return {.scale = (high - low) / steps(grid), .minimum = low};
}

// AWQ works in F16, each operation rounded to it, and does not bring zero into the range.
float half(float value) { return round_to(value, Dtype::kF16); }

BlockParameters fit_awq(std::span<const float> /*weights*/, const Extremes& extremes,
                        const Grid& grid, bool symmetric) {
  const float low = half(extremes.smallest);
  const float high = half(extremes.largest);
  const float least = half(1e-5f);
  if (symmetric) {
    const float largest = std::max(std::max(-low, high), least);
    return {.scale = half(largest / static_cast<float>((1 << (grid.bits - 1)) - 1))};
  }
  return {.scale = half(std::max(half(high - low), least) / steps(grid)), .minimum = low};
}

float zero_awq(float minimum, float scale) { return -std::nearbyintf(half(minimum / scale)); }

void codes_awq(std::span<const float> weights, const FittedBlock& block, const Grid& grid,
               uint8_t* codes) {
  const auto low = static_cast<float>(grid.lowest);
  for (size_t i = 0; i < weights.size(); ++i) {
    const float level = std::nearbyintf(half(half(weights[i]) / block.scale)) + block.zero;
    codes[i] = static_cast<uint8_t>(std::clamp(level, low, low + steps(grid)) - low);
  }
}

// The first weight of the largest magnitude, with its sign, becomes the lowest code.
BlockParameters fit_q4_0(std::span<const float> weights, const Extremes& extremes, const Grid& grid,
                         bool /*symmetric*/) {
  const float magnitude = std::max(-extremes.smallest, extremes.largest);
  const auto first = std::find_if(weights.begin(), weights.end(),
                                  [magnitude](float w) { return std::fabs(w) == magnitude; });
  const float largest = first == weights.end() ? 0.f : *first;
  return {.scale = largest / -static_cast<float>(1 << (grid.bits - 1))};
}

// From the scale before it was rounded to F16, and its reciprocal; halves round up.
void codes_q4_0(std::span<const float> weights, const FittedBlock& block, const Grid& grid,
                uint8_t* codes) {
  const float inverse = block.fitted == 0.f ? 0.f : 1.f / block.fitted;
  const float shift = static_cast<float>(1 << (grid.bits - 1)) + 0.5f;
  for (size_t i = 0; i < weights.size(); ++i) {
    const float code = std::trunc(weights[i] * inverse + shift);
    codes[i] = code > 0.f ? static_cast<uint8_t>(std::min(code, steps(grid))) : uint8_t{0};
  }
}

constexpr std::array<RangeRule, 4> kRules = {{
    {.name = "nibble",
     .summary = "2 absmax / (2^b - 1), or the range with zero in it",
     .source = "nibble",
     .fit = fit_nibble,
     .zero = nearest_zero,
     .codes = nullptr},
    {.name = "gptq",
     .summary = "as nibble, but a symmetric range is mirrored only if a weight is negative",
     .source = "GPTQ, quant.py find_params (Frantar et al. 2022, arXiv 2210.17323)",
     .fit = fit_gptq,
     .zero = nearest_zero,
     .codes = nullptr},
    {.name = "awq",
     .summary = "absmax / (2^(b-1) - 1), or max - min, in F16",
     .source = "AutoAWQ, pseudo_quantize_tensor (Lin et al. 2023, arXiv 2306.00978)",
     .fit = fit_awq,
     .zero = zero_awq,
     .codes = codes_awq},
    {.name = "q4_0",
     .summary = "the weight of largest magnitude becomes the lowest code; the scale has its sign",
     .source = "ggml, quantize_row_q4_0_ref",
     .fit = fit_q4_0,
     .zero = nullptr,
     .codes = codes_q4_0},
}};

}  // namespace

std::span<const RangeRule> range_rules() { return kRules; }

const RangeRule& range_rule(const std::string& name) {
  std::vector<std::string> known;
  for (const RangeRule& rule : kRules) {
    if (rule.name == name) return rule;
    known.emplace_back(rule.name);
  }
  const std::string nearest = nearest_name(name, known);
  throw Error(
      "", "no range rule '" + name + "'",
      nearest.empty() ? "known: nibble, gptq, awq, q4_0" : "did you mean '" + nearest + "'?");
}

}  // namespace nibble
