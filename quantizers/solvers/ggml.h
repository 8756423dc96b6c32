// llama.cpp's types by its own rules: src/quantized/ggml_fit.h.
#pragma once

#include "quantizers/solvers/solver.h"

namespace nibble {

// Schemes of ggml_schemes(); no column groups. Throws Error(problem.where, ...) for others.
SolverResult solve_ggml(const LinearProblem& problem);

}  // namespace nibble
