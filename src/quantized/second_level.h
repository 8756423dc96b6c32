// Second levels: scales that are quantized themselves.
//
// Double quantization as bitsandbytes has it (T. Dettmers et al., QLoRA, 2023, arXiv 2305.14314,
// section 3).
#pragma once

#include <cstdint>
#include <span>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"

namespace nibble {

inline constexpr int64_t kNestedBlock = 256;  // scales that share a second-level one

// Scales in 8 bits: value = map[stored] * second + offset, `second` F32 for 256 scales, offset the
// mean of all. 8 bits of this map keep a scale within 0.4 % of the spread of its 256 neighbours.
Scheme double_quantized(Scheme scheme);

// bitsandbytes' signed dynamic map [256], ascending: 0, 1 and +-10^(e-6) (0.1 + 0.9 (j + 1/2) /
// 2^e), e = 0..6, j = 0..2^e - 1, in float.
std::span<const float> dynamic_map();

// Scales [blocks] quantized to the stored bytes of a double-quantized parameter. positive: a scale
// that would read back as zero or less takes the next larger byte that does not.
ParameterValues double_quantize(std::span<const float> scales, bool positive);

}  // namespace nibble
