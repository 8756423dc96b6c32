#include "quantizers/transforms/smoothquant.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "quantizers/transforms/scale_group.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr float kSmallest = 1e-5F;
constexpr int kAlphaSteps = 20;  // of alpha

// [K] over the rows of all layers.
Vector largest_weights(const ScaleGroup& group) {
  Vector largest = Vector::Zero(group.inputs.H.rows());
  for (const ScaledLayer& layer : group.layers) {
    largest = largest.cwiseMax(layer.W.cwiseAbs().colwise().maxCoeff().transpose());
  }
  return largest;
}

// [K] squared norms of the columns of W s over all layers.
Vector column_squares(const ScaleGroup& group, const Vector& s) {
  Eigen::VectorXd squares = Eigen::VectorXd::Zero(s.size());
  for (const ScaledLayer& layer : group.layers) {
    squares += layer.W.cast<double>().colwise().squaredNorm().transpose();
  }
  return squares.cast<float>().cwiseProduct(s.cwiseAbs2());
}

ActivationScheme activations_of(const ScaleGroup& group) {
  for (const ScaledLayer& layer : group.layers) {
    if (layer.scheme.activations) return *layer.scheme.activations;
  }
  return {};
}

// Error of the outputs by the rounding of activations.
double activation_error(const ScaleGroup& group, const Vector& s) {
  const ActivationScheme activations = activations_of(group);
  const double steps = (1 << activations.bits) - 1;
  const Vector largest = group.inputs.largest.cwiseQuotient(s).cwiseAbs2();
  const Eigen::VectorXd w = column_squares(group, s).cast<double>();
  if (!activations.dynamic || !activations.per_token) {
    return 4. / (steps * steps) * w.sum() * static_cast<double>(largest.maxCoeff()) / 12.;
  }
  const Vector variance = group.inputs.H.diagonal().cwiseQuotient(s.cwiseAbs2());
  const Eigen::VectorXd m = expected_largest_squares(variance, largest).cast<double>();
  return 4. / (steps * steps) * (w.sum() * m.sum() / 12. + w.dot(m) * (1. / 4. - 1. / 12.));
}

double expected_error(const ScaleGroup& group, const Vector& s) {
  const std::vector<Matrix> rounded = rounded_with_scales(group.layers, s);
  return hessian_score(group.layers, group.inputs.H, rounded) + activation_error(group, s);
}

}  // namespace

// Cut into cells of y = |x|: with F_k = P(|x_k| <= y) and F their product, the largest is in a cell
// with the probability by which F grows there, and it is input k with the share of log F_k in the
// growth of log F.
Vector expected_largest_squares(const Vector& variance, const Vector& largest_square) {
  // Beyond 6 standard deviations of the widest input lies less than 1e-5 of 4096 such inputs.
  constexpr double kDeviations = 6;
  constexpr int kCells = 128;
  constexpr double kNever = -700;  // log of a probability of 1e-304
  const double end =
      std::min(kDeviations * std::sqrt(std::max(0., static_cast<double>(variance.maxCoeff()))),
               std::sqrt(static_cast<double>(largest_square.maxCoeff())));
  const int64_t K = variance.size();
  Eigen::VectorXd squares = Eigen::VectorXd::Zero(K);
  Eigen::VectorXd before = Eigen::VectorXd::Constant(K, kNever);  // log F_k
  Eigen::VectorXd after(K);
  for (int cell = 0; cell < kCells; ++cell) {
    const double y = end * (cell + 1) / kCells;
    for (int64_t k = 0; k < K; ++k) {
      const bool inside = cell + 1 < kCells && y * y < static_cast<double>(largest_square(k));
      const double deviation = std::sqrt(2. * static_cast<double>(variance(k)));
      after(k) = inside ? std::max(kNever, std::log(std::erf(y / deviation))) : 0.;
    }
    const double growth = after.sum() - before.sum();
    if (growth > 0.) {
      const double middle = end * (cell + 0.5) / kCells;
      const double probability = std::exp(after.sum()) - std::exp(before.sum());
      squares += middle * middle * probability / growth * (after - before);
    }
    before.swap(after);
  }
  return squares.cast<float>();
}

Vector smoothquant_scales(const ScaleGroup& group, double alpha) {
  const Vector x = tied_largest(group, group.inputs.largest);
  const Vector w = tied_largest(group, largest_weights(group)).cwiseMax(kSmallest);
  const auto a = static_cast<float>(alpha);
  Vector s(x.size());
  for (int64_t k = 0; k < s.size(); ++k) {
    const float scale = x(k) > 0.F ? std::pow(x(k), a) / std::pow(w(k), 1.F - a) : 1.F;
    s(k) = std::isfinite(scale) ? std::max(scale, kSmallest) : 1.F;
  }
  return s;
}

SmoothQuantScales find_smoothquant_scales(const ScaleGroup& group, std::optional<double> alpha) {
  SmoothQuantScales best;
  best.s = Vector::Ones(group.inputs.H.rows());
  best.identity = true;
  best.score_before = best.score_after = expected_error(group, best.s);
  check_score(group, best.score_before);
  for (int i = 0; i <= kAlphaSteps; ++i) {
    const double candidate = alpha ? *alpha : static_cast<double>(i) / kAlphaSteps;
    Vector s = smoothquant_scales(group, candidate);
    const double found = expected_error(group, s);
    if (alpha || found < best.score_after) {
      best = {.s = std::move(s),
              .alpha = candidate,
              .identity = false,
              .score_before = best.score_before,
              .score_after = found};
    }
    if (alpha) break;
  }
  return best;
}

}  // namespace nibble
