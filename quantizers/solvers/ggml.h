// llama.cpp's types: by its own rules (src/quantized/ggml_fit.h), and with codes chosen against the
// Hessian.
#pragma once

#include <span>
#include <vector>

#include "kernels/factorize.h"
#include "quantizers/solvers/gptq.h"
#include "quantizers/solvers/solver.h"
#include "src/tensor/matrix.h"

namespace nibble {

// diag(H), and for inputs that were always zero, which would leave a block without any weight, a
// hundredth of its mean, as GPTQ damps.
std::vector<float> importance_of(ConstMatrixRef H);

// Schemes of ggml_schemes(); no column groups. Throws Error(problem.where, ...) for others.
// importance [K] or empty.
SolverResult solve_ggml(const LinearProblem& problem, std::span<const float> importance);

// Block scales and minimums as solve_ggml chooses them, importance diag(H); on the grid that they
// fix, solve_gptq_on_grid, which moves codes, and scales and minimums within what their second
// level can hold. H [K, K] both triangles; factorization: of H.
GptqResult solve_ggml_gptq(const LinearProblem& problem, ConstMatrixRef H,
                           const Factorization& factorization, const GptqOptions& options);

}  // namespace nibble
