// The search of scale and minimum for groups of weights: make_qkx2_quants and make_qkx3_quants of
// ggml-quants.c (I. Kawrakow) for several groups side by side. Private to src/quantized.
#pragma once

#include "src/quantized/ggml_groups.h"

namespace nibble {

struct AffineSearch {
  int last = 15;       // highest code
  float first = -1.F;  // the steps of the range that are tried: last + first, + step, ..
  float step = 0.1F;
  int steps = 20;
  bool absolute = false;  // errors by magnitude, not squared
  GroupWeights weights = GroupWeights::kRaised;
};

template <size_t kGroups, size_t kWidth>
struct AffineBlock : GroupBlock<kGroups, kWidth> {
  PerGroup<kGroups> low;  // at most 0
  PerGroup<kGroups> high;
  PerGroup<kGroups> minimum;  // of the best, at most 0
};

// values, given: the groups' weights and, for GroupWeights::kGiven, what they count, one group
// after the other. Into block: low, high, and the codes `best` = rne((x - minimum) / scale),
// 0 .. last, with scale and minimum of least weighted error; both are no numbers where low = high.
void search_affine_groups(const float* values, const float* given, const AffineSearch& search,
                          AffineBlock<8, 32>& block);
void search_affine_groups(const float* values, const float* given, const AffineSearch& search,
                          AffineBlock<16, 16>& block);

}  // namespace nibble
