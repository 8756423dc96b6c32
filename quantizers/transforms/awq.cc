#include "quantizers/transforms/awq.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "quantizers/transforms/scale_group.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int kRatios = 20;
constexpr float kSmallest = 1e-4F;

// w_k: mean over all rows of |w| / the largest |w| of its group.
Vector relative_magnitudes(const ScaleGroup& group) {
  const int64_t K = group.inputs.H.rows();
  Eigen::VectorXd sum = Eigen::VectorXd::Zero(K);
  int64_t rows = 0;
  for (const ScaledLayer& layer : group.layers) {
    const Blocking& blocking = layer.scheme.blocking;
    const int64_t width =
        blocking.columns == kAll || blocking.flattened ? K : std::min(K, blocking.columns);
    rows += layer.W.rows();
    for (int64_t first = 0; first < K; first += width) {
      const auto columns = layer.W.middleCols(first, std::min(width, K - first)).cwiseAbs();
      const Vector largest = columns.rowwise().maxCoeff().cwiseMax(1e-30F);
      sum.segment(first, columns.cols()) += (largest.cwiseInverse().asDiagonal() * columns)
                                                .colwise()
                                                .sum()
                                                .transpose()
                                                .cast<double>();
    }
  }
  return (sum / static_cast<double>(std::max<int64_t>(1, rows))).cast<float>();
}

Vector scales_of(const Vector& x, const Vector& w, double ratio, bool duo) {
  const auto r = static_cast<float>(ratio);
  Vector s = x.array().pow(r).matrix();
  if (duo) s = s.cwiseQuotient((w.array().pow(1.F - r) + kSmallest).matrix());
  for (int64_t k = 0; k < s.size(); ++k) {
    s(k) = x(k) > 0.F && std::isfinite(s(k)) ? std::max(s(k), kSmallest) : 0.F;
  }
  float largest = 0.F;
  float smallest = INFINITY;
  for (int64_t k = 0; k < s.size(); ++k) {
    if (s(k) == 0.F) continue;
    largest = std::max(largest, s(k));
    smallest = std::min(smallest, s(k));
  }
  if (largest == 0.F) return Vector::Ones(s.size());
  const float middle = std::sqrt(largest * smallest);
  for (int64_t k = 0; k < s.size(); ++k) s(k) = s(k) == 0.F ? 1.F : s(k) / middle;
  return s;
}

}  // namespace

AwqScales search_awq_scales(const ScaleGroup& group, const GroupScore& score) {
  const auto judge = [&](const Vector& s) {
    const std::vector<Matrix> rounded = rounded_with_scales(group, s);
    return score ? score(rounded) : hessian_score(group, rounded);
  };
  const Vector x = tied_mean(group, group.inputs.mean_absolute);
  const Vector w = tied_mean(group, relative_magnitudes(group));
  AwqScales best;
  best.s = Vector::Ones(x.size());
  best.score_before = best.score_after = judge(best.s);
  for (const bool duo : {false, true}) {
    for (int i = duo ? 0 : 1; i < kRatios; ++i) {
      const double ratio = static_cast<double>(i) / kRatios;
      const Vector s = scales_of(x, w, ratio, duo);
      const double found = judge(s);
      if (!(found < best.score_after)) continue;
      best.s = s;
      best.ratio = ratio;
      best.duo = duo;
      best.score_after = found;
    }
  }
  return best;
}

}  // namespace nibble
