#include "quantizers/transforms/awq_clip.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int kSteps = 10;
constexpr int kGrid = 20;

float share_of(int step) { return 1.F - static_cast<float>(step) / static_cast<float>(kGrid); }

}  // namespace

ClippedWeights clip_weights(const Matrix& W, const Matrix& H, const Scheme& scheme,
                            const std::string& where) {
  const int64_t N = W.rows();
  const int64_t K = W.cols();
  if (scheme.blocking.rows != 1 || scheme.blocking.flattened) return {W, 0};
  const int64_t width = scheme.blocking.columns == kAll ? K : std::min(K, scheme.blocking.columns);
  const int64_t G = group_count(scheme.blocking, K);
  Matrix limits(N, G);  // the largest magnitude
  for (int64_t g = 0; g < G; ++g) {
    const int64_t columns = std::min(width, K - g * width);
    limits.col(g) = W.middleCols(g * width, columns).cwiseAbs().rowwise().maxCoeff();
  }
  Matrix best = Matrix::Constant(N, G, std::numeric_limits<float>::infinity());  // losses
  Matrix kept = Matrix::Ones(N, G);                                              // p
  const auto clamped = [&](const Matrix& shares) {
    Matrix result = W;
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t k = 0; k < K; ++k) {
        const float limit = shares(n, k / width) * limits(n, k / width);
        result(n, k) = std::clamp(result(n, k), -limit, limit);
      }
    }
    return result;
  };
  for (int step = 0; step < kSteps; ++step) {
    const Matrix V = clamped(Matrix::Constant(N, G, share_of(step)));
    const Matrix E = dequantize(solve_rtn({.W = V, .scheme = scheme, .where = where}).q) - W;
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < G; ++g) {
      const int64_t columns = std::min(width, K - g * width);
      const auto e = E.middleCols(g * width, columns);
      const Matrix He = e * H.block(g * width, g * width, columns, columns);
      const Vector losses = He.cwiseProduct(e).rowwise().sum();
      for (int64_t n = 0; n < N; ++n) {
        if (!(losses(n) < best(n, g))) continue;
        best(n, g) = losses(n);
        kept(n, g) = share_of(step);
      }
    }
  }
  return {clamped(kept), (kept.array() < 1.F).count()};
}

}  // namespace nibble
