#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "src/quantized/blocks.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/round_paths.h"
#include "src/tensor/cpu_features.h"

namespace nibble {
namespace {

Extremes extremes_of(std::span<const float> weights) {
  Extremes found;
  if (weights.empty()) return found;
  found.smallest = found.largest = weights[0];
  for (const float w : weights) {
    if (!std::isfinite(w)) found.finite = false;
    found.smallest = std::min(found.smallest, w);
    found.largest = std::max(found.largest, w);
  }
  return found;
}

void extremes(const float* weights, std::span<const Run> runs, Extremes* extremes) {
  for (size_t r = 0; r < runs.size(); ++r) {
    extremes[r] = extremes_of({weights + runs[r].first, weights + runs[r].end});
  }
}

void round_run(std::span<const float> weights, const RoundRule& rule, uint8_t* codes) {
  const auto low = static_cast<float>(rule.first);
  const auto high = static_cast<float>(rule.first + rule.last);
  for (size_t i = 0; i < weights.size(); ++i) {
    float level = std::nearbyintf(weights[i] / rule.scale);
    level = level > low ? level : low;
    level = level < high ? level : high;
    codes[i] = static_cast<uint8_t>(static_cast<int>(level) - rule.first);
  }
}

void round(const float* weights, std::span<const Run> runs, const RoundRule* rules,
           uint8_t* codes) {
  for (size_t r = 0; r < runs.size(); ++r) {
    const std::span<const float> run(weights + runs[r].first, weights + runs[r].end);
    round_run(run, rules[r], codes + runs[r].first);
  }
}

void dequantize(std::span<const uint8_t> codes, const Levels& levels, const WeightRule& rule,
                float* out) {
  for (size_t i = 0; i < codes.size(); ++i) out[i] = weight(rule, levels.values[codes[i]]);
}

}  // namespace

const RoundPath kScalarRound = {"scalar", extremes, round, dequantize};

std::span<const RoundPath* const> round_paths() {
  static const std::array<const RoundPath*, 3> all = {&kScalarRound, &kAvx2Round, &kAvx512Round};
  const CpuFeatures& cpu = cpu_features();
  return std::span(all).first(cpu.avx512 ? 3 : cpu.avx2 ? 2 : 1);
}

}  // namespace nibble
