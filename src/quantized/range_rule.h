// Range rules: from the weights of one block to its scale and zero point, before any search. Ours
// is stated once, in the row "nibble"; rows with the peers' rules exist to be compared with.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

// Of the weights of a block; meaningless unless finite.
struct Extremes {
  float smallest = 0.f;
  float largest = 0.f;
  bool finite = true;
};

struct FittedBlock {
  float fitted = 1.f;  // the scale before it was rounded to its stored type
  float scale = 1.f;   // as stored
  float zero = 0.f;
  float minimum = 0.f;  // as fitted
  bool is_zero = true;  // all its weights are
};

struct RangeRule {
  std::string_view name;
  std::string_view summary;
  std::string_view source;  // paper or program whose rule it is
  // Weights of one block and their extremes -> scale and (asymmetric) minimum in float, not yet
  // rounded to their stored types.
  BlockParameters (*fit)(std::span<const float> weights, const Extremes& extremes, const Grid& grid,
                         bool symmetric);
  // Asymmetric: minimum and the STORED scale -> zero point, not yet clamped to 0 .. 2^bits - 1.
  // Null: the rule has no asymmetric form.
  float (*zero)(float minimum, float scale);
  // Codes of a block where the program does not take clamp(rne(w / s) + z); else null.
  void (*codes)(std::span<const float> weights, const FittedBlock& block, const Grid& grid,
                uint8_t* codes);
};

// "nibble" first (the default): symmetric s = absmax * 2 / (2^b - 1), zero 0; asymmetric
// lo = min(w, 0), hi = max(w, 0), s = (hi - lo) / (2^b - 1), z = clamp(rne(-lo / s), 0, 2^b - 1)
// with the STORED s; an all-zero block has s = 1. Then "gptq", "awq" (also its absmax / 7), "q4_0".
std::span<const RangeRule> range_rules();
// Throws Error with the nearest name.
const RangeRule& range_rule(const std::string& name);

// What rounding scales to their stored type did, summed over a layer.
struct ScaleRounding {
  int64_t raised_to_smallest = 0;  // would have rounded to zero: took the smallest positive value
};

// Fits every block of W, rounds the scales to their stored type FIRST (with a second level, all
// together: src/quantized/second_level.h), then computes zero points with the stored scale. Returns
// a QuantizedLinear whose codes are not chosen yet. Throws Error(where, ...) naming the place for
// NaN or infinity in W and for a scale infinite in its stored type. For integer grids;
// group_of_column as in QuantizedLinear.
QuantizedLinear fit_parameters(ConstMatrixRef W, const Scheme& scheme, const RangeRule& rule,
                               const std::vector<int32_t>& group_of_column,
                               const std::string& where, ScaleRounding* rounding);

// Fills q.codes with the codes of the finite weights W [N, K], from the parameters in q: integers
// clamp(rne(w / s) + z), in float; other levels, and integers with a minimum or a broken zero
// point, the code whose weight is nearest, the lower one of two as near.
void round_to_nearest(ConstMatrixRef W, QuantizedLinear& q);

struct RoundedLinear {
  QuantizedLinear q;
  ScaleRounding rounding;
};

// fit_parameters and the rule's rounding in one pass over W.
RoundedLinear quantize_to_nearest(ConstMatrixRef W, const Scheme& scheme, const RangeRule& rule,
                                  const std::vector<int32_t>& group_of_column,
                                  const std::string& where);

}  // namespace nibble
