// What quantization did to a layer, whatever the solver.
#pragma once

#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {

// |W - dequantize(q)| / |W|, Frobenius norm; 0 for W = 0.
double weight_error(ConstMatrixRef W, const QuantizedLinear& q);

// sqrt(tr((W-Q) H (W-Q)') / tr(W H W')), the relative error of the outputs on the tokens of H = X'X
// / T [K, K], of which only the upper triangle is read; 0 where the denominator is 0.
double output_error(ConstMatrixRef W, ConstMatrixRef H, const QuantizedLinear& q);

}  // namespace nibble
