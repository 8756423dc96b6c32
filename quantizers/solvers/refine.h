// Refinement of a quantized layer on the Hessian: coordinate descent on scales, minimums and codes.
//
// With e = w - q of a row and r = (H + damping) e, the loss e'(H + damping)e falls most along
//   a code:              q_k -> q_k + r_k / H_kk, rounded to the grid
//   a group's scale:     s -> s + c'r / c'Hc, c the levels minus zero point of the group
//   its minimum, if any: m -> m + 1'r / 1'H1, or both together, by least squares
// A sweep takes the groups by falling sum of H_kk (in panels of up to 512 columns, these likewise):
// scale, codes by falling H_kk, scale. The gradients of a panel are a product in fixed point
// (kernels/matmul.h), off by 1e-4 of its factors' norms, where half a step of a code is what
// counts. Scales and minimums are rounded as they are stored, scales kept within 0.3 and 3 times
// what they were, and both left alone where the loss would not fall. Zero points, second levels and
// what several rows share stay. Differs from solving for all scales of a row at once: after two
// sweeps the losses are within 0.1 % of each other (bookworm-5m, W4 g128), and this needs a third
// of the work.
#pragma once

#include <cstdint>

#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {

// q: integer codes or those of a table, with a scale, not of flattened blocking. H [K, K] both
// triangles; damping: added to the diagonal. The loss of no row rises, but for the rounding of its
// products (above).
void refine(ConstMatrixRef W, ConstMatrixRef H, double damping, int sweeps, QuantizedLinear& q);

}  // namespace nibble
