#include "quantizers/transforms/scale_group.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/hessian.h"
#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

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

double hessian_score(const ScaleGroup& group, std::span<const Matrix> weights) {
  double score = 0;
  for (size_t i = 0; i < group.layers.size(); ++i) {
    const Matrix E = group.layers[i].W - weights[i];
    score += quadratic_form(E, group.inputs.H);
  }
  return score;
}

std::vector<Matrix> rounded_with_scales(const ScaleGroup& group, const Vector& s) {
  std::vector<Matrix> rounded;
  for (const ScaledLayer& layer : group.layers) {
    const Matrix W = layer.W * s.asDiagonal();
    const SolverResult result = solve_rtn({.W = W, .scheme = layer.scheme, .where = layer.name});
    rounded.emplace_back(dequantize(result.q) * s.cwiseInverse().asDiagonal());
  }
  return rounded;
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
