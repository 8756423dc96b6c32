// s = rule(block) rounded to its stored type, q = clamp(rne(w / s) + z):
// src/quantized/range_rule.h.
#include "quantizers/solvers/rtn.h"

#include <string>
#include <utility>

#include "quantizers/solvers/solver.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/llm_int8.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/error.h"

namespace nibble {

SolverResult solve_rtn(const LinearProblem& problem) {
  const Grid& grid = problem.scheme.grid;
  if (grid.kind == Grid::Kind::kInteger && (grid.bits < 2 || grid.bits > 8)) {
    throw Error(problem.where, "rtn at " + std::to_string(grid.bits) + " bits", "expected 2 to 8");
  }
  const auto result_of = [](RoundedLinear rounded) -> SolverResult {
    return {std::move(rounded.q), rounded.rounding};
  };
  if (grid.kind == Grid::Kind::kTable && problem.scheme.blocking.flattened) {
    return result_of(quantize_to_table(problem.W, problem.scheme, problem.where));
  }
  if (is_fp8(problem.scheme) || is_nvfp4(problem.scheme) || is_mxfp4(problem.scheme)) {
    return result_of(
        quantize_to_floats(problem.W, problem.scheme, problem.shared_largest, problem.where));
  }
  if (is_llm_int8(problem.scheme)) {
    return result_of(quantize_llm_int8(problem.W, problem.where));
  }
  const RangeRule& rule = problem.rule != nullptr ? *problem.rule : range_rules().front();
  return result_of(
      quantize_to_nearest(problem.W, problem.scheme, rule, problem.group_of_column, problem.where));
}

}  // namespace nibble
