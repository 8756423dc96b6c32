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
  const Comparison found = compare(W, q);
  return {.weight_error = relative_error(found),
          .snr_db = found.error == 0. ? std::numeric_limits<double>::infinity()
                                      : 10. * std::log10(found.weights / found.error),
          .clip_share = static_cast<double>(found.clipped) / static_cast<double>(W.size())};
}

double output_error(ConstMatrixRef W, ConstMatrixRef H, const QuantizedLinear& q) {
  const double outputs = quadratic_form(W, H);
  return outputs <= 0. ? 0. : std::sqrt(quadratic_form(error_of(W, q), H) / outputs);
}

}  // namespace nibble
