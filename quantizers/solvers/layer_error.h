// What quantization did to a layer, whatever the solver.
#pragma once

#include <cstdint>

#include "src/quantized/comparison.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct LayerErrors {
  double weight_error = 0.;  // |W - dequantize(q)| / |W|, Frobenius norm; 0 for W = 0
  double snr_db = 0.;      // 10 log10(|W|^2 / |W - dequantize(q)|^2); infinite where both are equal
  double clip_share = 0.;  // of weights: Comparison::clipped of src/quantized/comparison.h
};

// W [N, K]. Rows are summed in double and added in order: the same for any number of threads.
LayerErrors layer_errors(ConstMatrixRef W, const QuantizedLinear& q);
// Of a comparison of so many weights.
LayerErrors layer_errors(const Comparison& comparison, int64_t weights);

// sqrt(tr((W-Q) H (W-Q)') / tr(W H W')), the relative error of the outputs on the tokens of H = X'X
// / T [K, K], of which only the upper triangle is read; 0 where the denominator is 0.
double output_error(ConstMatrixRef W, ConstMatrixRef H, const QuantizedLinear& q);

}  // namespace nibble
