#include "quantizers/solvers/correct_past.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "kernels/blas_tile.h"
#include "kernels/factorize.h"
#include "kernels/matmul.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int64_t kRows = 128;  // per task

}  // namespace

Matrix correct_past(ConstMatrixRef W, const PastSums& sums, const Factorization& factorization,
                    double alpha, const std::string& where) {
  const int64_t K = W.cols();
  const bool fits =
      factorization.F.rows() == K &&
      (sums.input == nullptr || (sums.input->rows() == K && sums.input->cols() == K)) &&
      (sums.residual == nullptr ||
       (sums.residual->rows() == W.rows() && sums.residual->cols() == K));
  if (!fits) throw Error(where, "cross sums of another shape than the weights");
  Matrix shift = Matrix::Zero(W.rows(), K);
  if (sums.residual != nullptr) shift = *sums.residual;
  if (sums.input != nullptr) {
#pragma omp parallel for schedule(dynamic)
    for (int64_t row = 0; row < W.rows(); row += kRows) {
      const int64_t rows = std::min(kRows, W.rows() - row);
      multiply_tile(W.middleRows(row, rows), *sums.input, shift.middleRows(row, rows),
                    Accumulate::kYes);
    }
  }
  solve_rows(factorization, shift);
  return W + static_cast<float>(alpha) * shift;
}

}  // namespace nibble
