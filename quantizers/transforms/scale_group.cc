#include "quantizers/transforms/scale_group.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/hessian.h"
#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

// W [N, K] with column k multiplied by s(k).
Matrix columns_times(const Matrix& W, const Vector& s) {
  Matrix scaled(W.rows(), W.cols());
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < W.rows(); ++n) {
    scaled.row(n) = W.row(n).cwiseProduct(s.transpose());
  }
  return scaled;
}

template <typename Combine>
Vector over_ties(const ScaleGroup& group, const Vector& values, const Combine& combine) {
  if (group.tied.empty()) return values;
  const int32_t classes = *std::max_element(group.tied.begin(), group.tied.end()) + 1;
  std::vector<std::vector<float>> members(static_cast<size_t>(classes));
  for (int64_t k = 0; k < values.size(); ++k) {
    members[static_cast<size_t>(group.tied[static_cast<size_t>(k)])].push_back(values(k));
  }
  Vector combined(values.size());
  for (int64_t k = 0; k < values.size(); ++k) {
    combined(k) = combine(members[static_cast<size_t>(group.tied[static_cast<size_t>(k)])]);
  }
  return combined;
}

}  // namespace

std::vector<Matrix> rounded_with_scales(std::span<const ScaledLayer> layers, const Vector& s) {
  const Vector inverse = s.cwiseInverse();
  std::vector<Matrix> rounded;
  for (const ScaledLayer& layer : layers) {
    Scheme scheme = layer.scheme;
    scheme.activations.reset();
    const Matrix W = columns_times(layer.W, s);
    const SolverResult result = solve_rtn({.W = W, .scheme = scheme, .where = layer.name});
    rounded.push_back(columns_times(dequantize(result.q), inverse));
  }
  return rounded;
}

double hessian_score(std::span<const ScaledLayer> layers, ConstMatrixRef H,
                     std::span<const Matrix> weights) {
  double score = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const Matrix& W = layers[i].W;
    Matrix E(W.rows(), W.cols());
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < W.rows(); ++n) E.row(n) = W.row(n) - weights[i].row(n);
    score += quadratic_form(E, H);
  }
  return score;
}

void check_score(const ScaleGroup& group, double score) {
  if (std::isfinite(score)) return;
  throw Error(group.layers.empty() ? std::string() : group.layers.front().name,
              "the error of rounding this layer is not a finite number",
              "do its inputs hold NaN, or overflow in the Hessian?");
}

Vector tied_mean(const ScaleGroup& group, const Vector& values) {
  return over_ties(group, values, [](const std::vector<float>& members) {
    double sum = 0;
    for (const float value : members) sum += static_cast<double>(value);
    return static_cast<float>(sum / static_cast<double>(members.size()));
  });
}

Vector tied_largest(const ScaleGroup& group, const Vector& values) {
  return over_ties(group, values, [](const std::vector<float>& members) {
    return *std::max_element(members.begin(), members.end());
  });
}

}  // namespace nibble
