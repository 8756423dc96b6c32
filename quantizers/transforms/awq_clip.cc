#include "quantizers/transforms/awq_clip.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "kernels/blas_tile.h"
#include "kernels/matmul.h"
#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int kClipSteps = 10;
constexpr int kGrid = 20;
constexpr int64_t kRows = 128;  // per task

float share_of(int step) { return 1.F - static_cast<float>(step) / static_cast<float>(kGrid); }

// The groups of columns of every row.
struct Groups {
  int64_t width = 0;  // columns of a group; the last one may have fewer
  int64_t count = 0;

  int64_t first(int64_t g) const { return g * width; }
  int64_t columns(int64_t g, int64_t K) const { return std::min(width, K - first(g)); }
};

Matrix largest_magnitudes(const Matrix& W, const Groups& groups) {
  Matrix largest(W.rows(), groups.count);
  for (int64_t g = 0; g < groups.count; ++g) {
    const auto w = W.middleCols(groups.first(g), groups.columns(g, W.cols()));
    largest.col(g) = w.cwiseAbs().rowwise().maxCoeff();
  }
  return largest;
}

// limits [N, G]
Matrix clamped(const Matrix& W, const Groups& groups, const Matrix& limits) {
  Matrix result(W.rows(), W.cols());
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < W.rows(); ++n) {
    for (int64_t k = 0; k < W.cols(); ++k) {
      const float limit = limits(n, k / groups.width);
      result(n, k) = std::clamp(W(n, k), -limit, limit);
    }
  }
  return result;
}

// e'H_gg e of every row and group, [N, G].
Matrix losses_of(const Matrix& E, const Matrix& H, const Groups& groups) {
  const int64_t K = E.cols();
  Matrix losses(E.rows(), groups.count);
#pragma omp parallel for schedule(dynamic)
  for (int64_t row = 0; row < E.rows(); row += kRows) {
    const int64_t rows = std::min(kRows, E.rows() - row);
    for (int64_t g = 0; g < groups.count; ++g) {
      const int64_t first = groups.first(g);
      const int64_t columns = groups.columns(g, K);
      const auto e = E.block(row, first, rows, columns);
      Matrix product(rows, columns);
      multiply_tile(e, H.block(first, first, columns, columns), product, Accumulate::kNo);
      for (int64_t i = 0; i < rows; ++i) losses(row + i, g) = product.row(i).dot(e.row(i));
    }
  }
  return losses;
}

}  // namespace

ClippedWeights clip_weights(const Matrix& W, const Matrix& H, const Scheme& scheme,
                            const std::string& where) {
  const int64_t K = W.cols();
  const Blocking& blocking = scheme.blocking;
  if (blocking.rows != 1 || blocking.flattened) return {.W = W};
  const Groups groups = {.width = blocking.columns == kAll ? K : std::min(K, blocking.columns),
                         .count = group_count(blocking, K)};
  const Matrix largest = largest_magnitudes(W, groups);
  Matrix limits = largest;
  Matrix least;  // [N, G] losses
  ClippedWeights result;
  for (int step = 0; step < kClipSteps; ++step) {
    const Matrix tried = share_of(step) * largest;
    const Matrix V = clamped(W, groups, tried);
    const Matrix E = dequantize(solve_rtn({.W = V, .scheme = scheme, .where = where}).q) - W;
    const Matrix losses = losses_of(E, H, groups);
    if (step == 0) {
      least = losses;
      result.loss_before = losses.cast<double>().sum();
      continue;
    }
    for (int64_t i = 0; i < losses.size(); ++i) {
      if (!(losses.data()[i] < least.data()[i])) continue;
      least.data()[i] = losses.data()[i];
      limits.data()[i] = tried.data()[i];
    }
  }
  result.loss_after = least.cast<double>().sum();
  result.clipped = (limits.array() < largest.array()).count();
  result.W = clamped(W, groups, limits);
  return result;
}

}  // namespace nibble
