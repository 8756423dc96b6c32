#include "quantizers/solvers/ggml.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/factorize.h"
#include "quantizers/solvers/gptq.h"
#include "quantizers/solvers/refine.h"
#include "quantizers/solvers/scale_search.h"
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
  if (options.search != ScaleSearch::kHessian || !options.static_groups) {
    throw Error(problem.where, "llama.cpp's blocks are fitted beforehand, weighted by diag(H)",
                "leave out --scale-search and --no-static-groups");
  }
  const Stopwatch search;
  const std::vector<float> importance = importance_of(H);
  GptqResult result;
  result.solved = solve_ggml(problem, importance);
  result.search_seconds = search.seconds();
  const Stopwatch solve;
  solve_codes(problem, H, factorization, result.solved.q);
  result.solve_seconds = solve.seconds();
  const Stopwatch sweeps;
  if (options.sweeps > 0) {
    refine(problem.W, H, factorization.added, options.sweeps, result.solved.q);
  }
  result.refine_seconds = sweeps.seconds();
  result.damping = factorization.damping;
  result.escalations = factorization.escalations;
  result.dead_columns = static_cast<int64_t>(factorization.dead.size());
  return result;
}

}  // namespace nibble
