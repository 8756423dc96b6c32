#include "src/quantized/clipping.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <utility>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/round_paths.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int64_t kParallelWeights = 1 << 16;

// The two smallest and the two largest levels; equal where there is but one.
struct LevelEnds {
  float low = 0.f;
  float above_low = 0.f;
  float below_high = 0.f;
  float high = 0.f;
};

LevelEnds ends_of(std::span<const float> levels) {
  std::vector<float> sorted;
  std::copy_if(levels.begin(), levels.end(), std::back_inserter(sorted),
               [](float level) { return std::isfinite(level); });
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  if (sorted.empty()) return {};
  const size_t last = sorted.size() - 1;
  const size_t second = std::min<size_t>(1, last);
  return {sorted[0], sorted[second], sorted[last - second], sorted[last]};
}

// Weights outside [low, high] are clipped.
struct Limits {
  double low;
  double high;
};

Limits limits_of(const LevelEnds& ends, const WeightRule& rule) {
  double low = weight(rule, ends.low);
  double above_low = weight(rule, ends.above_low);
  double below_high = weight(rule, ends.below_high);
  double high = weight(rule, ends.high);
  if (low > high) {  // a negative scale
    std::swap(low, high);
    std::swap(above_low, below_high);
  }
  const double slack = (high - low) * 0x1p-9;
  return {low - (above_low - low) / 2. - slack, high + (high - below_high) / 2. + slack};
}

int64_t count_outside(std::span<const float> weights, const Limits& limits) {
  int64_t count = 0;
  for (const float w : weights) count += w < limits.low || w > limits.high ? 1 : 0;
  return count;
}

}  // namespace

int64_t clipped_weights(ConstMatrixRef W, const QuantizedLinear& q) {
  const FloatParameters parameters = float_parameters(q);
  const bool has_codebooks = q.scheme.grid.kind == Grid::Kind::kCodebook;
  const size_t entries = size_t{1} << q.scheme.grid.bits;
  int64_t clipped = 0;
#pragma omp parallel for schedule(static) reduction(+ : clipped) if (W.size() > kParallelWeights)
  for (int64_t n = 0; n < q.N; ++n) {
    std::array<float, 256> levels{};
    LevelEnds ends;
    for (int64_t k = 0; k < q.K;) {
      int64_t end = q.group_of_column.empty() ? block_end(q.scheme.blocking, q.K, n, k) : k + 1;
      if (has_codebooks) end = std::min(end, block_end(q.scheme.codebook_blocking, q.K, n, k));
      if (k == 0 || has_codebooks) {
        load_levels(q, n, k, levels);
        ends = ends_of(std::span(levels).first(entries));
      }
      const WeightRule rule = weight_rule(q.scheme, parameters, block_index(q, n, k));
      const float* const row = W.data() + n * W.outerStride();
      clipped += count_outside({row + k, row + end}, limits_of(ends, rule));
      k = end;
    }
  }
  return clipped;
}

}  // namespace nibble
