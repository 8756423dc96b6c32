// NF4, FP4 and double quantization as bitsandbytes has them (T. Dettmers et al., QLoRA, 2023, arXiv
// 2305.14314, sections 3 and 4): schemes, tables, and the rounding that gives its bytes.
//
// NF4's levels stand for equal shares of a normal distribution: the means of the quantiles at 2^3
// + 1 points of its negative and 2^3 points of its positive half, scaled to -1 .. 1, zero among
// them. The paper's formula leaves the outermost quantile open (0.9677083 in its program); the
// table that was published with it is used, for files are read with that.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

inline constexpr int64_t kNestedBlock = 256;  // scales that share a second-level one

// Blocks of `block` weights of the flattened matrix share the largest magnitude as their scale:
// F32, or with double_quant U8 through the dynamic map.
Scheme nf4_scheme(int64_t block, bool double_quant);
Scheme fp4_scheme(int64_t block, bool double_quant);

// Scales in 8 bits: value = map[stored] * second + offset, `second` F32 for 256 scales, offset the
// mean of all. 8 bits of this map keep a scale within 0.4 % of the spread of its 256 neighbours.
Scheme double_quantized(Scheme scheme);

// bitsandbytes' signed dynamic map [256], ascending: 0, 1 and +-10^(e-6) (0.1 + 0.9 (j + 1/2) /
// 2^e), e = 0..6, j = 0..2^e - 1, in float.
std::span<const float> dynamic_map();

// Scales [blocks] quantized to the stored bytes of a double-quantized parameter. positive: a scale
// that would read back as zero or less takes the next larger byte that does not.
ParameterValues double_quantize(std::span<const float> scales, bool positive);

// Rounds to a table scheme by the rule of bitsandbytes: codes by the scale BEFORE its own
// quantization, the lower of two levels as near; the last, short block is divided by its scale, the
// others are multiplied by the reciprocal. Throws Error(where, ...) for NaN or infinity.
RoundedLinear quantize_to_table(ConstMatrixRef W, const Scheme& scheme, const std::string& where);

// Integer groups along rows with double-quantized scales: ranges as the rule "nibble", zero points
// and codes with the scales as they read back.
RoundedLinear quantize_double(ConstMatrixRef W, const Scheme& scheme, const std::string& where);

}  // namespace nibble
