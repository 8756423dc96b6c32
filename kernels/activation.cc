// Hendrycks and Gimpel, 2016, arXiv 1606.08415 (GELU and its tanh form).
#include "kernels/activation.h"

#include <cassert>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "kernels/row_paths.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

void gelu_erf_row(const float* x, const float* factor, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) {
    const float value = 0.5f * x[i] * (1 + std::erf(x[i] / std::numbers::sqrt2_v<float>));
    y[i] = factor == nullptr ? value : value * factor[i];
  }
}

void for_rows(void (*function)(const float*, const float*, int64_t, float*), ConstMatrixRef x,
              ConstMatrixRef factor, MatrixRef y) {
  assert(x.rows() == y.rows() && x.cols() == y.cols());
  assert(factor.rows() == 0 || (factor.rows() == x.rows() && factor.cols() == x.cols()));
  for (int64_t t = 0; t < x.rows(); ++t) {
    function(x.row(t).data(), factor.rows() == 0 ? nullptr : factor.row(t).data(), x.cols(),
             y.row(t).data());
  }
}

}  // namespace

void silu(ConstMatrixRef x, ConstMatrixRef factor, MatrixRef y) {
  for_rows(row_path().silu, x, factor, y);
}

void gelu_tanh(ConstMatrixRef x, ConstMatrixRef factor, MatrixRef y) {
  for_rows(row_path().gelu_tanh, x, factor, y);
}

void gelu_erf(ConstMatrixRef x, ConstMatrixRef factor, MatrixRef y) {
  for_rows(gelu_erf_row, x, factor, y);
}

}  // namespace nibble
