#include "quantizers/solvers/solvers.h"

#include <array>
#include <cassert>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quantizers/solvers/ggml.h"
#include "quantizers/solvers/gptq.h"
#include "quantizers/solvers/kmeans.h"
#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/scheme.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

SolvedLayer round_to_nearest_row(const LinearProblem& problem, const LayerInputs& /*inputs*/,
                                 const SolverOptions& /*options*/) {
  return {.result = solve_rtn(problem), .damping = {}};
}

SolvedLayer solved(GptqResult found) {
  return {.result = std::move(found.solved),
          .damping = found.damping,
          .escalations = found.escalations,
          .dead_columns = found.dead_columns};
}

SolvedLayer gptq_row(const LinearProblem& problem, const LayerInputs& inputs,
                     const SolverOptions& options) {
  assert(inputs.H != nullptr && inputs.factorization != nullptr);
  const Scheme& scheme = problem.scheme;
  if (is_fp8(scheme) || is_nvfp4(scheme) || is_mxfp4(scheme)) {
    return solved(solve_gptq_on_grid(problem, solve_rtn(problem), *inputs.H, *inputs.factorization,
                                     options.gptq));
  }
  return solved(solve_gptq(problem, *inputs.H, *inputs.factorization, options.gptq));
}

SolvedLayer kmeans_row(const LinearProblem& problem, const LayerInputs& inputs,
                       const SolverOptions& options) {
  Vector importance;
  if (inputs.H != nullptr) importance = inputs.H->diagonal();
  const std::span weights(importance.data(), static_cast<size_t>(importance.size()));
  return {.result = solve_kmeans(problem, options.kmeans, weights), .damping = {}};
}

SolvedLayer ggml_row(const LinearProblem& problem, const LayerInputs& inputs,
                     const SolverOptions& /*options*/) {
  std::vector<float> importance;
  if (inputs.H != nullptr) importance = importance_of(*inputs.H);
  return {.result = solve_ggml(problem, importance), .damping = {}};
}

SolvedLayer ggml_gptq_row(const LinearProblem& problem, const LayerInputs& inputs,
                          const SolverOptions& options) {
  assert(inputs.H != nullptr && inputs.factorization != nullptr);
  return solved(solve_ggml_gptq(problem, *inputs.H, *inputs.factorization, options.gptq));
}

constexpr std::array<Solver, 5> kSolvers = {{
    {.name = "rtn",
     .summary = "round to nearest, no calibration",
     .source = "the common baseline; rules as in src/quantized/range_rule.h",
     .needs = Needs::kNothing,
     .solve = round_to_nearest_row},
    {.name = "gptq",
     .summary = "column by column against the Hessian, then refined on it",
     .source = "Frantar et al. 2022, arXiv 2210.17323, algorithm 1",
     .needs = Needs::kHessian,
     .solve = gptq_row},
    {.name = "kmeans",
     .summary = "levels that minimise the squared error, weighted by diag(H) where it is known",
     .source = "k-means in one dimension, exact by dynamic programming",
     .needs = Needs::kImportance,
     .solve = kmeans_row},
    {.name = "ggml",
     .summary =
         "round to nearest by llama.cpp's rules and scale searches, weighted by diag(H) where "
         "it is known",
     .source = "ggml-quants.c; the same bytes as its program",
     .needs = Needs::kImportance,
     .solve = ggml_row},
    {.name = "ggml-gptq",
     .summary = "llama.cpp's block scales, weighted by diag(H), then codes and refinement of gptq",
     .source = "ggml-quants.c; Frantar et al. 2022, arXiv 2210.17323",
     .needs = Needs::kHessian,
     .solve = ggml_gptq_row},
}};

}  // namespace

std::span<const Solver> solvers() { return kSolvers; }

const Solver& solver(const std::string& name) {
  std::vector<std::string> known;
  std::string list;
  for (const Solver& row : kSolvers) {
    if (row.name == name) return row;
    known.emplace_back(row.name);
    list += (list.empty() ? "" : ", ") + known.back();
  }
  const std::string nearest = nearest_name(name, known);
  throw Error("", "no solver '" + name + "'",
              nearest.empty() ? "known: " + list : "did you mean '" + nearest + "'?");
}

}  // namespace nibble
