// The search of one scale for groups of weights whose codes are -half .. half - 1: make_qx_quants
// and make_q3_quants of ggml-quants.c (I. Kawrakow) for several groups side by side. Private to
// src/quantized.
#pragma once

#include "src/quantized/ggml_groups.h"

namespace nibble {

struct SymmetricSearch {
  int half = 8;
  GroupWeights weights = GroupWeights::kSquare;
};

// values, given: the groups' weights and, for GroupWeights::kGiven, what they count, one group
// after the other. Into block: scale, and `best`, the codes plus half: of 19 scales around the one
// that puts the weight of largest magnitude on -half, each mended by weighted least squares, the
// one of least error. The scale of a group of nothing is 0, and so are its codes.
void search_symmetric_groups(const float* values, const float* given, const SymmetricSearch& search,
                             GroupBlock<8, 32>& block);
void search_symmetric_groups(const float* values, const float* given, const SymmetricSearch& search,
                             GroupBlock<16, 16>& block);
// One group.
void search_symmetric_groups(const float* values, const float* given, const SymmetricSearch& search,
                             GroupBlock<1, 16>& block);

// The same from that first scale alone, in up to five rounds in which each code in turn takes the
// best value for the others'.
void fit_symmetric_by_turns(const float* values, const SymmetricSearch& search,
                            GroupBlock<16, 16>& block);

}  // namespace nibble
