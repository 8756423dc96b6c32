// llama.cpp's own choice of scales, minimums and codes for the types of
// src/quantized/ggml_schemes.h (I. Kawrakow and others, ggml-quants.c: the "reference" quantizers,
// without importance weights): the same bytes as its program writes. Float, each sum in the order
// of the columns.
#pragma once

#include <string>

#include "src/quantized/ggml_schemes.h"
#include "src/quantized/range_rule.h"
#include "src/tensor/matrix.h"

namespace nibble {

// W [N, K], K a multiple of the type's block. Throws Error(where, ...) for a K that is not, for NaN
// or infinity, and for a scale beyond F16.
RoundedLinear quantize_ggml(ConstMatrixRef W, const GgmlScheme& type, const std::string& where);

}  // namespace nibble
