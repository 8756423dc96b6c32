#include "quantizers/solvers/layer_error.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/hessian.h"
#include "src/quantized/clipping.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int64_t kTileRows = 16;  // dequantized at a time: they stay in the cache

struct SquaredNorms {
  double weights = 0.;
  double error = 0.;
};

SquaredNorms squared_norms(ConstMatrixRef W, const QuantizedLinear& q) {
  const FloatParameters parameters = float_parameters(q);
  std::vector<double> weights(static_cast<size_t>(q.N));
  std::vector<double> errors(static_cast<size_t>(q.N));
#pragma omp parallel
  {
    Matrix tile(kTileRows, q.K);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < q.N; first += kTileRows) {
      const int64_t rows = std::min(kTileRows, q.N - first);
      dequantize_rows(q, parameters, first, tile.topRows(rows));
      for (int64_t r = 0; r < rows; ++r) {
        const auto row = W.row(first + r);
        const auto at = static_cast<size_t>(first + r);
        weights[at] = row.cast<double>().squaredNorm();
        errors[at] = (row - tile.row(r)).cast<double>().squaredNorm();
      }
    }
  }
  return {std::accumulate(weights.begin(), weights.end(), 0.),
          std::accumulate(errors.begin(), errors.end(), 0.)};
}

double relative(const SquaredNorms& norms) {
  return norms.weights == 0. ? 0. : std::sqrt(norms.error / norms.weights);
}

Matrix error_of(ConstMatrixRef W, const QuantizedLinear& q) {
  Matrix error = dequantize(q);
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < W.rows(); ++n) error.row(n) = W.row(n) - error.row(n);
  return error;
}

}  // namespace

LayerErrors layer_errors(ConstMatrixRef W, const QuantizedLinear& q) {
  const SquaredNorms norms = squared_norms(W, q);
  LayerErrors errors;
  errors.weight_error = relative(norms);
  errors.snr_db = norms.error == 0. ? std::numeric_limits<double>::infinity()
                                    : 10. * std::log10(norms.weights / norms.error);
  errors.clip_share = static_cast<double>(clipped_weights(W, q)) / static_cast<double>(W.size());
  return errors;
}

double weight_error(ConstMatrixRef W, const QuantizedLinear& q) {
  return relative(squared_norms(W, q));
}

double output_error(ConstMatrixRef W, ConstMatrixRef H, const QuantizedLinear& q) {
  const double outputs = quadratic_form(W, H);
  return outputs <= 0. ? 0. : std::sqrt(quadratic_form(error_of(W, q), H) / outputs);
}

}  // namespace nibble
