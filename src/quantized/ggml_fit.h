// llama.cpp's own choice of scales, minimums and codes for the types of
// src/quantized/ggml_schemes.h (I. Kawrakow and others, ggml-quants.c): the same bytes as its
// program writes, without and with importance weights (its "imatrix"). Float, each sum in the order
// of the columns.
#pragma once

#include <span>
#include <string>

#include "src/quantized/ggml_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {

// W [N, K], K a multiple of the type's block. importance [K]: what the squared errors of a column
// count, finite, not negative; empty: what the type does without. Q8_0 and MXFP4 take no notice.
// Throws Error(where, ...) for a K that is no multiple, for NaN or infinity, and for a scale beyond
// F16.
QuantizedLinear quantize_ggml(ConstMatrixRef W, const GgmlScheme& type,
                              std::span<const float> importance, const std::string& where);

}  // namespace nibble
