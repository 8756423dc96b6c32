#include "quantizers/solvers/ggml.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "kernels/factorize.h"
#include "quantizers/solvers/gptq.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/ggml_fit.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/scheme.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/stopwatch.h"

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
  return {quantize_ggml(problem.W, *type, importance, problem.where), {}};
}

GptqResult solve_ggml_gptq(const LinearProblem& problem, ConstMatrixRef H,
                           const Factorization& factorization, const GptqOptions& options) {
  const Stopwatch search;
  SolverResult rounded = solve_ggml(problem, importance_of(H));
  const double seconds = search.seconds();
  GptqResult result = solve_gptq_on_grid(problem, std::move(rounded), H, factorization, options);
  result.search_seconds = seconds;
  return result;
}

}  // namespace nibble
