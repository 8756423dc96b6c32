// GPTQ (quantizers/solvers/gptq.h) on FP8, NVFP4 and MXFP4: scales by the rule of round to nearest
// for the original weights, codes column after column. No scale search, no refinement.
#pragma once

#include "kernels/factorize.h"
#include "quantizers/solvers/solver.h"
#include "src/tensor/matrix.h"

namespace nibble {

// factorization: of the Hessian of the layer's inputs. Throws Error as quantize_to_floats
// (src/quantized/float_schemes.h).
SolverResult solve_gptq_floats(const LinearProblem& problem, const Factorization& factorization);

}  // namespace nibble
