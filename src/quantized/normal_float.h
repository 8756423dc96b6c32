// NF4 and FP4 as bitsandbytes has them (T. Dettmers et al., QLoRA, 2023, arXiv 2305.14314, section
// 3): schemes, tables, and the rounding that gives its bytes. Their double quantization:
// src/quantized/second_level.h.
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

// Blocks of `block` weights of the flattened matrix share the largest magnitude as their scale:
// F32, or with double_quant U8 through the dynamic map.
Scheme nf4_scheme(int64_t block, bool double_quant);
Scheme fp4_scheme(int64_t block, bool double_quant);

// Rounds to a table scheme by the rule of bitsandbytes: codes by the scale BEFORE its own
// quantization, the lower of two levels as near; the last, short block is divided by its scale, the
// others are multiplied by the reciprocal. Throws Error(where, ...) for NaN or infinity.
RoundedLinear quantize_to_table(ConstMatrixRef W, const Scheme& scheme, const std::string& where);

}  // namespace nibble
