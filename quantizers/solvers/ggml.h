// llama.cpp's types by its own rules: src/quantized/ggml_fit.h.
#pragma once

#include <span>
#include <vector>

#include "quantizers/solvers/solver.h"
#include "src/tensor/matrix.h"

namespace nibble {

// diag(H), and for inputs that were always zero, which would leave a block without any weight, a
// hundredth of its mean, as GPTQ damps.
std::vector<float> importance_of(ConstMatrixRef H);

// Schemes of ggml_schemes(); no column groups. Throws Error(problem.where, ...) for others.
// importance [K] or empty.
SolverResult solve_ggml(const LinearProblem& problem, std::span<const float> importance);

}  // namespace nibble
