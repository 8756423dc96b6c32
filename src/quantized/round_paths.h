// The inner loops of rounding and dequantization, one table of functions per instruction set, over
// runs of consecutive weights that share their parameters. Private: only src/quantized and
// the test that compares the paths include it.
//
// All paths give the same bits; the scalar one is the specification.
#pragma once

#include <cstdint>
#include <span>

#include "src/quantized/blocks.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"

namespace nibble {

// Weight of a level.
struct WeightRule {
  float scale = 1.f;
  float zero = 0.f;
  float minimum = 0.f;
  bool has_minimum = false;  // adding 0 would change the sign of -0
};

// Of one block.
WeightRule weight_rule(const Scheme& scheme, const FloatParameters& parameters, int64_t block);

inline float weight(const WeightRule& rule, float level) {
  const float product = (level - rule.zero) * rule.scale;
  return rule.has_minimum ? product + rule.minimum : product;
}

// Levels of the codes, in memory for 256 floats; those beyond 2^bits are zero.
struct Levels {
  std::span<const float, 256> values;
  int bits = 4;
  bool consecutive = false;  // values[i] = values[0] + i, integers
};

// Fills the levels that weight (n, k) may have.
void load_levels(const QuantizedLinear& q, int64_t n, int64_t k, std::span<float, 256> levels);

// Integer codes of a block: code = clamp(rne(w / scale), first, first + last) - first, in float.
// With zero point z and lowest level l, first = l - z; the weight read back is
// (code + first) * scale. A NaN becomes code 0.
struct RoundRule {
  float scale = 1.f;
  int first = 0;
  int last = 15;  // 2^bits - 1
};

struct RoundPath {
  const char* name;
  // weights: a row, runs: parts of it -> extremes [runs].
  void (*extremes)(const float* weights, std::span<const Run> runs, Extremes* extremes);
  // rules: [runs]; codes: of the row.
  void (*round)(const float* weights, std::span<const Run> runs, const RoundRule* rules,
                uint8_t* codes);
  // One run.
  void (*dequantize)(std::span<const uint8_t> codes, const Levels& levels, const WeightRule& rule,
                     float* out);
};

extern const RoundPath kScalarRound;
extern const RoundPath kAvx2Round;
extern const RoundPath kAvx512Round;

// Those that may run here, the fastest last.
std::span<const RoundPath* const> round_paths();

}  // namespace nibble
