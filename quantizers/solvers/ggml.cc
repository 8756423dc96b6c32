#include "quantizers/solvers/ggml.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "quantizers/solvers/solver.h"
#include "src/quantized/ggml_fit.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {

std::vector<float> importance_of(ConstMatrixRef H) {
  const auto diagonal = H.diagonal();
  const auto least = static_cast<float>(0.01 * diagonal.cast<double>().mean());
  std::vector<float> importance(diagonal.begin(), diagonal.end());
  std::ranges::replace(importance, 0.f, least > 0.f ? least : 1.f);
  return importance;
}

SolverResult solve_ggml(const LinearProblem& problem, std::span<const float> importance) {
  const GgmlScheme* type = ggml_scheme(problem.scheme);
  if (type == nullptr || !problem.group_of_column.empty()) {
    throw Error(problem.where, describe(problem.scheme) + " is no type of llama.cpp's",
                "q8_0, q4_k, .. are schemes");
  }
  RoundedLinear rounded = quantize_ggml(problem.W, *type, importance, problem.where);
  return {std::move(rounded.q), rounded.rounding, rounded.weight_error};
}

}  // namespace nibble
