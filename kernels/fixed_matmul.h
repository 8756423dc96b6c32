// The fixed-point half of matmul (kernels/matmul.h). Private to kernels/.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "kernels/matmul.h"
#include "src/tensor/matrix.h"

namespace nibble {

// load(row, values): a row of W [N, K], or of its transpose [K, N] if transposed; called by several
// threads at once.
using LoadRow = std::function<void(int64_t, std::span<float>)>;
PanelMatrix make_fixed_panels(int64_t N, int64_t K, bool transposed, const LoadRow& load);

// The outputs [first, first + y.cols()) of x w', added to y if asked; first is a multiple of 32.
// Uses all threads, or the calling one inside a parallel region.
void multiply_fixed(ConstMatrixRef x, const PanelMatrix& w, int64_t first, MatrixRef y,
                    Accumulate accumulate);

}  // namespace nibble
