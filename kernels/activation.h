// Activations of the MLP, on the calling thread, with the multiplication of a gated MLP.
#pragma once

#include "src/tensor/matrix.h"

namespace nibble {

// y = f(x) * factor, all [T, n]; factor may have no rows (1). y may be x or factor.
void silu(ConstMatrixRef x, ConstMatrixRef factor, MatrixRef y);       // x / (1 + e^-x)
void gelu_tanh(ConstMatrixRef x, ConstMatrixRef factor, MatrixRef y);  // the tanh approximation
void gelu_erf(ConstMatrixRef x, ConstMatrixRef factor, MatrixRef y);   // x/2 (1 + erf(x / sqrt 2))

}  // namespace nibble
