// The problem that every solver gets, and what it gives back: the codes of one linear layer. The
// table of solvers is quantizers/solvers/solvers.h; each solver is one file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
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
  // The largest magnitude that one scale of the tensor spans (nvfp4): of W and its siblings; larger
  // weights saturate. 0: of W.
  float shared_largest = 0.F;
};

struct SolverResult {
  QuantizedLinear q;
  ScaleRounding rounding;
};

}  // namespace nibble
