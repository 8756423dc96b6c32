#include "quantizers/solvers/layer_error.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/hessian.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

// Row by row in float vectors, rows in double and in order.
double squared_norm(ConstMatrixRef W) {
  std::vector<double> rows(static_cast<size_t>(W.rows()));
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < W.rows(); ++n) {
    rows[static_cast<size_t>(n)] = W.row(n).cast<double>().squaredNorm();
  }
  return std::accumulate(rows.begin(), rows.end(), 0.);
}

Matrix error_of(ConstMatrixRef W, const QuantizedLinear& q) {
  Matrix error = dequantize(q);
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < W.rows(); ++n) error.row(n) = W.row(n) - error.row(n);
  return error;
}

}  // namespace

double weight_error(ConstMatrixRef W, const QuantizedLinear& q) {
  const double weights = squared_norm(W);
  return weights == 0. ? 0. : std::sqrt(squared_norm(error_of(W, q)) / weights);
}

double output_error(ConstMatrixRef W, ConstMatrixRef H, const QuantizedLinear& q) {
  const double outputs = quadratic_form(W, H);
  return outputs <= 0. ? 0. : std::sqrt(quadratic_form(error_of(W, q), H) / outputs);
}

}  // namespace nibble
