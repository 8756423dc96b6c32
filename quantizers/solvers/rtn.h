// Round to nearest: every weight by itself, no calibration.
#pragma once

#include "quantizers/solvers/solver.h"

namespace nibble {

// Integer schemes of 2 to 8 bits, any blocking, also with double-quantized scales; NF4 and FP4;
// FP8, NVFP4 and MXFP4.
SolverResult solve_rtn(const LinearProblem& problem);

}  // namespace nibble
