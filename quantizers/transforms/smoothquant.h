// SmoothQuant: scales that move the difficulty of quantization from activations to weights.
//
//   s_k = max|X_k|^alpha / max|W_k|^(1 - alpha), at least 1e-5
// over the tokens and over the rows of all layers, max|W_k| at least 1e-5 as in the authors'
// program. G. Xiao et al., SmoothQuant, 2022, arXiv 2211.10438, equation 4.
//
// With alpha searched, each of 0, 0.05, .. 1 is judged by the expected error of the outputs per
// token. The layer computes Q (x/s + n), Q the rounded W s and n the activations' rounding, taken
// as independent of all else and uniform within a step d = 2 m / (2^bits - 1), m the largest |x_k /
// s_k|; but the largest input itself lies half a step from the nearest level. With w_k = |column k
// of W s|^2 (that of Q but for a small part),
//   error = sum over layers of  tr((W - Q/s) H (W - Q/s)')
//           + sum over k of  w_k (E[d^2] / 12 + E[d^2; x_k is the largest] (1/4 - 1/12))
// Static activations: m is known exactly, that of all tokens, and the last term is nothing. Dynamic
// ones: m is that of each token, of which there are only statistics: the inputs are taken as
// independent Gaussians of variance H_kk, cut at their largest |x_k|.
#pragma once

#include <optional>

#include "quantizers/transforms/scale_group.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct SmoothQuantScales {
  Vector s;  // [K]
  double alpha = 0;
  bool identity = false;    // no alpha was better than s = 1
  double score_before = 0;  // of s = 1, as above
  double score_after = 0;
};

// The scales of a given alpha, 0..1. Inputs that are always zero have 1.
Vector smoothquant_scales(const ScaleGroup& group, double alpha);

// alpha: none: searched, s = 1 included. The activations are those of the layers' schemes: by
// token, 8 bits, where they name none.
SmoothQuantScales find_smoothquant_scales(const ScaleGroup& group, std::optional<double> alpha);

// E[m^2; input k is the largest] for independent Gaussians of these variances [K], none larger than
// the root of largest_square [K]; the sum is E[m^2].
Vector expected_largest_squares(const Vector& variance, const Vector& largest_square);

}  // namespace nibble
