#include "src/quantized/ggml_symmetric.h"

#include <cstddef>
#include <cstdint>

#include "src/quantized/ggml_groups.h"

namespace nibble {
namespace {

// Sums that give the scale s = sum w x q / sum w q^2 of least error sum w (x - s q)^2, which is
// sum w x^2 - s sum w x q: the larger product, the better.
template <size_t kGroups>
struct Sums {
  PerGroup<kGroups> xq = {};
  PerGroup<kGroups> qq = {};
};

template <size_t kGroups>
[[gnu::always_inline]] inline void add_to(Sums<kGroups>& sums, const PerGroup<kGroups>& weight,
                                          const PerGroup<kGroups>& x, const PerGroup<kGroups>& q) {
  sums.xq += weight * x * q;
  sums.qq += weight * q * q;
}

// tried = rne(x * inverse), and their sums.
template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void try_scale(const PerGroup<kGroups>& inverse, int half,
                                             GroupBlock<kGroups, kWidth>& block,
                                             Sums<kGroups>& sums) {
  sums = {};
  for (size_t i = 0; i < kWidth; ++i) {
    round_codes<kGroups>(inverse * block.x[i], -half, half - 1, block.tried[i]);
    add_to<kGroups>(sums, block.weights[i], block.x[i], block.tried[i]);
  }
}

// best: from codes to codes plus half; nothing at all in groups of nothing.
template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void finish(const PerGroupInteger<kGroups>& nothing, int half,
                                          GroupBlock<kGroups, kWidth>& block) {
  block.scale = nothing ? PerGroup<kGroups>{} : block.scale;
  for (PerGroup<kGroups>& code : block.best) {
    code = nothing ? PerGroup<kGroups>{} : code + static_cast<float>(half);
  }
}

template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void search_groups(const float* values, const float* given,
                                                 const SymmetricSearch& search,
                                                 GroupBlock<kGroups, kWidth>& block) {
  load_groups<kGroups, kWidth>(values, search.weights, given, block);
  PerGroup<kGroups> extreme;
  PerGroupInteger<kGroups> nothing;
  extremes<kGroups, kWidth>(block, extreme, nothing);
  const auto lowest = static_cast<float>(search.half);
  Sums<kGroups> sums;
  try_scale<kGroups, kWidth>(-lowest / extreme, search.half, block, sums);
  block.best = block.tried;
  block.scale = sums.qq > 0.F ? sums.xq / sums.qq : PerGroup<kGroups>{};
  PerGroup<kGroups> most = block.scale * sums.xq;
  for (int t = -9; t <= 9; ++t) {
    if (t == 0) continue;
    try_scale<kGroups, kWidth>(-(lowest + 0.1F * static_cast<float>(t)) / extreme, search.half,
                               block, sums);
    // Where qq is 0, so is xq.
    const PerGroupInteger<kGroups> better = sums.xq * sums.xq > most * sums.qq;
    block.scale = better ? sums.xq / sums.qq : block.scale;
    most = better ? block.scale * sums.xq : most;
    for (size_t i = 0; i < kWidth; ++i) {
      block.best[i] = better ? block.tried[i] : block.best[i];
    }
  }
  finish<kGroups, kWidth>(nothing, search.half, block);
}

template <size_t kGroups>
[[gnu::always_inline]] inline bool any(const PerGroupInteger<kGroups>& lanes) {
  int32_t all = 0;
  for (size_t g = 0; g < kGroups; ++g) all |= lanes[g];
  return all != 0;
}

// One round of turns; changed: groups with another code.
template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void take_turns(int half, GroupBlock<kGroups, kWidth>& block,
                                              Sums<kGroups>& sums,
                                              PerGroupInteger<kGroups>& changed) {
  changed = PerGroupInteger<kGroups>{};
  for (size_t i = 0; i < kWidth; ++i) {
    const PerGroup<kGroups>& x = block.x[i];
    const PerGroup<kGroups>& weight = block.weights[i];
    const PerGroup<kGroups> old = block.best[i];
    Sums<kGroups> others;
    others.xq = sums.xq - weight * x * old;
    others.qq = sums.qq - weight * old * old;
    PerGroup<kGroups> code;
    round_codes<kGroups>(x * others.qq / others.xq, -half, half - 1, code);
    // One comparison a line: together they would not become vectors. The right is at least 0.
    const PerGroup<kGroups> never = PerGroup<kGroups>{} - 1.F;
    const PerGroup<kGroups> without = others.xq;
    add_to<kGroups>(others, weight, x, code);
    PerGroup<kGroups> left = others.xq * others.xq * sums.qq;
    left = without > 0.F ? left : never;
    left = code != old ? left : never;
    const PerGroupInteger<kGroups> better = left > sums.xq * sums.xq * others.qq;
    block.best[i] = better ? code : old;
    sums.xq = better ? others.xq : sums.xq;
    sums.qq = better ? others.qq : sums.qq;
    changed |= better;
  }
}

template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void fit_by_turns(const float* values, const SymmetricSearch& search,
                                                GroupBlock<kGroups, kWidth>& block) {
  load_groups<kGroups, kWidth>(values, search.weights, nullptr, block);
  PerGroup<kGroups> extreme;
  PerGroupInteger<kGroups> nothing;
  extremes<kGroups, kWidth>(block, extreme, nothing);
  Sums<kGroups> sums;
  try_scale<kGroups, kWidth>(static_cast<float>(-search.half) / extreme, search.half, block, sums);
  block.best = block.tried;
  for (int round = 0; round < 5; ++round) {
    PerGroupInteger<kGroups> changed;
    take_turns<kGroups, kWidth>(search.half, block, sums, changed);
    if (!any<kGroups>(changed)) break;
  }
  block.scale = sums.qq > 0.F ? sums.xq / sums.qq : PerGroup<kGroups>{};
  finish<kGroups, kWidth>(nothing, search.half, block);
}

}  // namespace

NIBBLE_VECTOR_CLONES void search_symmetric_groups(const float* values, const float* given,
                                                  const SymmetricSearch& search,
                                                  GroupBlock<8, 32>& block) {
  search_groups<8, 32>(values, given, search, block);
}

NIBBLE_VECTOR_CLONES void search_symmetric_groups(const float* values, const float* given,
                                                  const SymmetricSearch& search,
                                                  GroupBlock<16, 16>& block) {
  search_groups<16, 16>(values, given, search, block);
}

void search_symmetric_groups(const float* values, const float* given, const SymmetricSearch& search,
                             GroupBlock<1, 16>& block) {
  search_groups<1, 16>(values, given, search, block);
}

NIBBLE_VECTOR_CLONES void fit_symmetric_by_turns(const float* values, const SymmetricSearch& search,
                                                 GroupBlock<16, 16>& block) {
  fit_by_turns<16, 16>(values, search, block);
}

}  // namespace nibble
