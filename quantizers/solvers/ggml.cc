#include "quantizers/solvers/ggml.h"

#include <utility>

#include "quantizers/solvers/solver.h"
#include "src/quantized/ggml_fit.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/error.h"

namespace nibble {

SolverResult solve_ggml(const LinearProblem& problem) {
  const GgmlScheme* type = ggml_scheme(problem.scheme);
  if (type == nullptr || !problem.group_of_column.empty()) {
    throw Error(problem.where, describe(problem.scheme) + " is no type of llama.cpp's",
                "q8_0, q4_k, .. are schemes");
  }
  RoundedLinear rounded = quantize_ggml(problem.W, *type, problem.where);
  return {std::move(rounded.q), rounded.rounding, rounded.weight_error};
}

}  // namespace nibble
