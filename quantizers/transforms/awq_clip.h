// AWQ's clipping: the largest magnitude of every group of a row, shrunk where rounding to nearest
// then does less harm.
//
//   m = p * max |w| of the group, p = 1, 0.95, .. 0.55; the first p with the least e'H_gg e,
//   e = Q(clamp(w, -m, m)) - w over the columns of the group
// J. Lin et al., AWQ, 2023, arXiv 2306.00978 (their program's auto_clip). Differs: the error of the
// group's share of the output comes from its block of the Hessian, not from 512 sampled tokens.
//
// Not for queries and keys, as in their program: the errors of the two are multiplied with each
// other in the attention's scores.
#pragma once

#include <cstdint>
#include <string>

#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct ClippedWeights {
  Matrix W;                // [N, K]
  int64_t clipped = 0;     // groups with p < 1
  double loss_before = 0;  // sum over rows and groups of e'H_gg e with p = 1
  double loss_after = 0;
};

// scheme: row-wise blocking; others come back as they are. H [K, K], both triangles.
ClippedWeights clip_weights(const Matrix& W, const Matrix& H, const Scheme& scheme,
                            const std::string& where);

}  // namespace nibble
