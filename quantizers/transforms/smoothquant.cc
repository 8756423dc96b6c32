#include "quantizers/transforms/smoothquant.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "quantizers/transforms/scale_group.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr float kSmallest = 1e-5F;
constexpr int kSteps = 20;  // of alpha
constexpr int kActivationBits = 8;

// [K] over the rows of all layers.
Vector largest_weights(const ScaleGroup& group) {
  Vector largest = Vector::Zero(group.inputs.H.rows());
  for (const ScaledLayer& layer : group.layers) {
    largest = largest.cwiseMax(layer.W.cwiseAbs().colwise().maxCoeff().transpose());
  }
  return largest;
}

double expected_error(const ScaleGroup& group, const Vector& s) {
  const std::vector<Matrix> rounded = rounded_with_scales(group, s);
  double norm = 0;
  for (const ScaledLayer& layer : group.layers) {
    const Eigen::VectorXd columns = layer.W.colwise().squaredNorm().transpose().cast<double>();
    norm += columns.dot(s.cwiseAbs2().cast<double>());
  }
  const auto widest = static_cast<double>(group.inputs.largest.cwiseQuotient(s).maxCoeff());
  const double step = widest * 2. / ((1 << kActivationBits) - 1);
  return hessian_score(group, rounded) + step * step / 12. * norm;
}

}  // namespace

Vector smoothquant_scales(const ScaleGroup& group, double alpha) {
  const Vector x = tied_largest(group, group.inputs.largest);
  const Vector w = tied_largest(group, largest_weights(group));
  const auto a = static_cast<float>(alpha);
  Vector s(x.size());
  for (int64_t k = 0; k < s.size(); ++k) {
    const bool live = x(k) > 0.F && w(k) > 0.F;
    const float scale = live ? std::pow(x(k), a) / std::pow(w(k), 1.F - a) : 1.F;
    s(k) = std::isfinite(scale) ? std::max(scale, kSmallest) : 1.F;
  }
  return s;
}

SmoothQuantScales find_smoothquant_scales(const ScaleGroup& group, std::optional<double> alpha) {
  SmoothQuantScales best;
  best.s = Vector::Ones(group.inputs.H.rows());
  best.score_before = best.score_after = expected_error(group, best.s);
  if (alpha) {
    best.alpha = *alpha;
    best.s = smoothquant_scales(group, *alpha);
    best.score_after = expected_error(group, best.s);
    return best;
  }
  for (int i = 0; i <= kSteps; ++i) {
    const double candidate = static_cast<double>(i) / kSteps;
    const Vector s = smoothquant_scales(group, candidate);
    const double found = expected_error(group, s);
    if (!(found < best.score_after)) continue;
    best.s = s;
    best.alpha = candidate;
    best.score_after = found;
  }
  return best;
}

}  // namespace nibble
