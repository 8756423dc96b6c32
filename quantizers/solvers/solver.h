// Solver: the choice of the codes of one linear layer. Rows of one table, in the order shown to
// users; each solver is one file.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct LinearProblem {
  ConstMatrixRef W;  // [N, K], finite; must outlive the call
  Scheme scheme;
  std::vector<int32_t> group_of_column = {};  // [K], or empty: k / group size
  std::string where = {};                     // module, for messages
  const RangeRule* rule = nullptr;            // null: the first of range_rules()
};

struct SolverResult {
  QuantizedLinear q;
  ScaleRounding rounding;
  double weight_error = 0.;  // |W - dequantize(q)| / |W|, Frobenius norm
};

struct Solver {
  std::string_view name;
  std::string_view summary;
  std::string_view source;  // paper or program
  // Throws Error(problem.where, ...) for weights or schemes it cannot take.
  SolverResult (*solve)(const LinearProblem& problem);
};

std::span<const Solver> solvers();
// Throws Error with the nearest name.
const Solver& solver(const std::string& name);

}  // namespace nibble
