// The search of scale and minimum for the groups of one block of 256 weights, of Q2_K, Q4_K and
// Q5_K: make_qkx2_quants of ggml-quants.c for all groups of the block side by side. Private to
// src/quantized.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "src/quantized/ggml_schemes.h"

namespace nibble {

// Added and subtracted, it rounds to nearest even for magnitudes below 2^22; several times faster
// than the library's.
inline constexpr float kRoundingShift = 0x1.8p23F;

struct AffineSearch {
  int last = 15;       // highest code
  float first = -1.F;  // the steps of the range that are tried: last + first, + 0.1, ..
  int steps = 20;
  bool absolute = false;  // errors by magnitude, not squared
  bool raised = true;     // weights are |x| plus the group's root mean square; else |x|
};

// One number for each group of a block: the groups are fitted side by side in the lanes of vectors,
// so that every sum keeps its order. GCC's and Clang's vector extensions.
template <size_t kGroups>
struct Lanes {
  typedef float Floats __attribute__((vector_size(kGroups * sizeof(float))));
  typedef int32_t Integers __attribute__((vector_size(kGroups * sizeof(int32_t))));
};
template <size_t kGroups>
using PerGroup = typename Lanes<kGroups>::Floats;

template <size_t kGroups>
struct AffineBlock {
  static constexpr size_t kWidth = kSuperBlock / kGroups;
  std::array<PerGroup<kGroups>, kWidth> x;
  std::array<PerGroup<kGroups>, kWidth> weights;
  std::array<PerGroup<kGroups>, kWidth> tried;  // codes
  std::array<PerGroup<kGroups>, kWidth> best;
  PerGroup<kGroups> low;  // at most 0
  PerGroup<kGroups> high;
  PerGroup<kGroups> scale;    // of the best
  PerGroup<kGroups> minimum;  // of the best, at most 0
};

// values: the block's weights, [kSuperBlock]. Into block: low, high, and the codes `best` =
// rne((x - minimum) / scale), 0 .. last, with scale and minimum of least weighted error; both are
// no numbers where low = high.
void search_affine_groups(const float* values, const AffineSearch& search, AffineBlock<8>& block);
void search_affine_groups(const float* values, const AffineSearch& search, AffineBlock<16>& block);

}  // namespace nibble
