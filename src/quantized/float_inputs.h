// Activations in floating-point codes (ActivationScheme::is_float): the scales that run-time
// kernels find, and what the layer sees then. x [T, K]:
//
//   8 bits  E4M3, s = absmax / 448 of the token, of `columns` of it, or of all of x; or stored
//   4 bits  E2M1 in groups of 32 (MXFP4), s as of weights; of 16 (NVFP4), s = local / g with the
//           stored g (input_scale, or its inverse) and local = E4M3(g * (absmax / 6))
//   seen = code(x / s) * s in float; s = 0 leaves zeros
// Rules and rounding are those of weights: src/quantized/float_schemes.h.
#pragma once

#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

// x as the layer sees it. input_scale: the stored value; 1 if there is none. Uses all threads, or
// the calling one inside a parallel region.
Matrix rounded_inputs(ConstMatrixRef x, const ActivationScheme& scheme, float input_scale);

// The scale to be stored for inputs whose largest magnitude is this: static E4M3, or NVFP4's.
float float_input_scale(const ActivationScheme& scheme, float largest);

}  // namespace nibble
