#include "kernels/norm.h"

#include <cassert>
#include <cmath>
#include <cstdint>

#include "kernels/row_paths.h"
#include "src/tensor/matrix.h"

namespace nibble {

void rms_norm(ConstMatrixRef x, const Vector& weight, float epsilon, MatrixRef y) {
  const RowPath& path = row_path();
  const int64_t n = weight.size();
  assert(x.cols() % n == 0 && x.rows() == y.rows() && x.cols() == y.cols());
  for (int64_t t = 0; t < x.rows(); ++t) {
    for (int64_t first = 0; first < x.cols(); first += n) {
      const float* row = x.row(t).data() + first;
      const float mean_square = path.sum_squares(row, n, 0.f) / static_cast<float>(n);
      path.normalize(row, n, 0.f, 1.f / std::sqrt(mean_square + epsilon), weight.data(), nullptr,
                     y.row(t).data() + first);
    }
  }
}

void layer_norm(ConstMatrixRef x, const Vector& weight, const Vector& bias, float epsilon,
                MatrixRef y) {
  const RowPath& path = row_path();
  const int64_t n = x.cols();
  assert(weight.size() == n && x.rows() == y.rows() && n == y.cols());
  for (int64_t t = 0; t < x.rows(); ++t) {
    const float* row = x.row(t).data();
    const float mean = path.sum(row, n) / static_cast<float>(n);
    const float variance = path.sum_squares(row, n, mean) / static_cast<float>(n);
    path.normalize(row, n, mean, 1.f / std::sqrt(variance + epsilon), weight.data(),
                   bias.size() == 0 ? nullptr : bias.data(), y.row(t).data());
  }
}

}  // namespace nibble
