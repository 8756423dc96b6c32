// SmoothQuant: scales that move the difficulty of quantization from activations to weights.
//
//   s_k = max|X_k|^alpha / max|W_k|^(1 - alpha), at least 1e-5
// over the tokens and over the rows of all layers. G. Xiao et al., SmoothQuant, 2022, arXiv
// 2211.10438, equation 4.
//
// With alpha searched, each of 0, 0.05, .. 1 is judged by the expected error of the outputs,
//   sum over layers of  tr((W - Q(W s)/s) H (W - Q(W s)/s)')  +  d^2 / 12 * |W s|^2,
// the weights' rounding from the Hessian, and the activations' as noise uniform in a step d = max_k
// (max|X_k| / s_k) * 2 / (2^bits - 1) on every input, independent of all else.
#pragma once

#include <optional>

#include "quantizers/transforms/scale_group.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct SmoothQuantScales {
  Vector s;  // [K]
  double alpha = 0;
  double score_before = 0;  // of s = 1, as above
  double score_after = 0;
};

// The scales of a given alpha, 0..1. Inputs that are always zero, and columns of zeros, have 1.
Vector smoothquant_scales(const ScaleGroup& group, double alpha);

// alpha: none: searched, s = 1 included.
SmoothQuantScales find_smoothquant_scales(const ScaleGroup& group, std::optional<double> alpha);

}  // namespace nibble
