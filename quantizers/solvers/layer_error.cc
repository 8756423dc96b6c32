#include "quantizers/solvers/layer_error.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/hessian.h"
#include "src/quantized/comparison.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

Matrix error_of(ConstMatrixRef W, const QuantizedLinear& q) {
  Matrix error = dequantize(q);
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < W.rows(); ++n) error.row(n) = W.row(n) - error.row(n);
  return error;
}

}  // namespace

LayerErrors layer_errors(ConstMatrixRef W, const QuantizedLinear& q) {
  return layer_errors(compare(W, q), W.size());
}

LayerErrors layer_errors(const Comparison& comparison, int64_t weights) {
  return {.weight_error = relative_error(comparison),
          .snr_db = comparison.error == 0.
                        ? std::numeric_limits<double>::infinity()
                        : 10. * std::log10(comparison.weights / comparison.error),
          .clip_share = static_cast<double>(comparison.clipped) / static_cast<double>(weights)};
}

double output_error(ConstMatrixRef W, ConstMatrixRef H, const QuantizedLinear& q) {
  const double outputs = quadratic_form(W, H);
  return outputs <= 0. ? 0. : std::sqrt(quadratic_form(error_of(W, q), H) / outputs);
}

}  // namespace nibble
