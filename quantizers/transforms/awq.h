// AWQ: scales that protect the columns of weights whose inputs are large.
//
//   s_k = x_k^r, or with duo scaling x_k^r / (w_k^(1-r) + 1e-4), at least 1e-4;
//   s <- s / sqrt(max s * min s)
// x_k: mean of |x| of input k; w_k: mean over the rows of all layers of |w| / largest |w| of its
// group. r = 0, 0.05, .. 0.95 without and with duo scaling, each judged by the error after rounding
// to nearest; r = 0 without duo scaling is the identity, so that the search loses to nothing.
// J. Lin et al., AWQ, 2023, arXiv 2306.00978, section 3.2 (equations 4 and 5); duo scaling as in
// AutoAWQ. Differs: the error is that of the layers' outputs from their Hessian, tr(E H E'), unless
// the caller scores otherwise (the paper: the block's output on sampled tokens); inputs that are
// always zero have scale 1 and no part in max and min, so that what another text feeds them is not
// rounded away.
#pragma once

#include <vector>

#include "quantizers/transforms/scale_group.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct AwqCandidate {
  Vector s;  // [K]; ones: the identity
  double ratio = 0;
  bool duo = false;
};

// In the order in which ties are decided, the identity first.
std::vector<AwqCandidate> awq_candidates(const ScaleGroup& group);

struct AwqScales {
  Vector s;  // [K]; ones: the identity was best
  double ratio = 0;
  bool duo = false;
  double score_before = 0;  // of the identity
  double score_after = 0;   // at most that of the identity
};

// score: of the weights that rounding leaves; hessian_score if empty: then layers of more rows than
// awq.cc says are sampled for a first look, and the best of it are judged by all rows. Scales that
// are not finite are 1.
AwqScales search_awq_scales(const ScaleGroup& group, const GroupScore& score = {});

}  // namespace nibble
