// LLM.int8 weights as bitsandbytes stores them (T. Dettmers et al., LLM.int8(), 2022, arXiv
// 2208.07339, section 2): rows of 8-bit integers, SCB the largest magnitude of a row.
//
//   code = rne(w * (1 / SCB * 127)), w rounded to F16 first;   W = code * (SCB * (1 / 127))
// Only the weights: its quantization of activations, which leaves outliers in F16, is a matter of
// the program that runs them.
#pragma once

#include <string>

#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

inline constexpr float kOneOf127 = 7.874015718698502e-3F;  // as bitsandbytes has it

// Scales are SCB in F32 and have one second-level value, kOneOf127.
Scheme llm_int8_scheme();
bool is_llm_int8(const Scheme& scheme);

// bitsandbytes' bytes. Throws Error(where, ...) for NaN or infinity, also as F16, in W [N, K].
RoundedLinear quantize_llm_int8(ConstMatrixRef W, const std::string& where);

}  // namespace nibble
