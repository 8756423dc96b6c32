#include "src/quantized/ggml_levels.h"

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

#include "src/quantized/ggml_groups.h"

namespace nibble {
namespace {

using Block = GroupBlock<kLevelGroups, kLevelGroup>;
using Floats = PerGroup<kLevelGroups>;

// Midway from a level to the one before, where it begins; and how much more it is. Both are exact.
struct Step {
  float border;
  float rise;
};

constexpr size_t kSteps = 15;

std::array<Step, kSteps> steps_of(std::span<const float> levels) {
  assert(levels.size() == kSteps + 1);
  std::array<Step, kSteps> steps;
  for (size_t i = 0; i < kSteps; ++i) {
    steps[i] = {(levels[i] + levels[i + 1]) / 2.F, levels[i + 1] - levels[i]};
  }
  return steps;
}

// For the scale s = xq / qq the error is sum w x^2 - s xq.
struct Sums {
  Floats xq = {};
  Floats qq = {};
};

[[gnu::always_inline]] inline void try_scale(const Floats& inverse, float first,
                                             const std::array<Step, kSteps>& steps,
                                             const Block& block, Sums& sums) {
  sums = Sums();
  for (size_t i = 0; i < kLevelGroup; ++i) {
    const Floats scaled = inverse * block.x[i];
    Floats q = Floats{} + first;
    for (const Step& step : steps) q += scaled >= step.border ? Floats{} + step.rise : Floats{};
    sums.xq += block.weights[i] * q * block.x[i];
    sums.qq += block.weights[i] * q * q;
  }
}

}  // namespace

NIBBLE_VECTOR_CLONES void fit_levels(const float* x, const float* weights,
                                     std::span<const float> levels,
                                     std::span<float, kLevelGroups> scales) {
  constexpr int kTries = 7;
  const std::array<Step, kSteps> steps = steps_of(levels);
  const float first = levels.front();
  Block block;
  load_groups<kLevelGroups, kLevelGroup>(
      x, weights == nullptr ? GroupWeights::kSquare : GroupWeights::kGiven, weights, block);
  Floats extreme;
  PerGroupInteger<kLevelGroups> nothing;
  extremes<kLevelGroups, kLevelGroup>(block, extreme, nothing);
  Sums sums;
  try_scale(1.F / (-extreme / first), first, steps, block, sums);
  Floats scale = sums.qq > 0.F ? sums.xq / sums.qq : Floats{};
  Floats most = scale * sums.xq;
  for (int t = -kTries; t <= kTries; ++t) {
    try_scale((static_cast<float>(t) + first) / extreme, first, steps, block, sums);
    // Where qq is 0, so is xq.
    const PerGroupInteger<kLevelGroups> better = sums.xq * sums.xq > most * sums.qq;
    scale = better ? sums.xq / sums.qq : scale;
    most = better ? scale * sums.xq : most;
  }
  for (size_t g = 0; g < kLevelGroups; ++g) scales[g] = nothing[g] != 0 ? 0.F : scale[g];
}

NIBBLE_VECTOR_CLONES void code_levels(std::span<const float> x, std::span<const float> levels,
                                      float scale, uint8_t* codes) {
  const std::array<Step, kSteps> steps = steps_of(levels);
  const float inverse = scale == 0.F ? 0.F : 1.F / scale;
  for (size_t i = 0; i < x.size(); ++i) {
    const float scaled = inverse * x[i];
    int code = 0;
    for (const Step& step : steps) code += scaled >= step.border ? 1 : 0;
    codes[i] = static_cast<uint8_t>(code);
  }
}

}  // namespace nibble
