// Weights that no scheme can hold. Private to src/quantized.
#pragma once

#include <string>

#include "src/tensor/matrix.h"

namespace nibble {

// Throws Error(where, ...) that names the first weight of W that is NaN or infinite.
void check_finite(ConstMatrixRef W, const std::string& where);

}  // namespace nibble
