// Groups of weights fitted side by side in the lanes of vectors, as the searches of llama.cpp's
// types need them (ggml_affine.h, ggml_symmetric.h): every sum keeps the order of the columns.
// Private to src/quantized.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "src/quantized/vector_clones.h"  // IWYU pragma: export

namespace nibble {

// Added and subtracted, it rounds to nearest even for magnitudes below 2^22; several times faster
// than the library's.
inline constexpr float kRoundingShift = 0x1.8p23F;

// One number for each group. GCC's and Clang's vector extensions.
template <size_t kGroups>
struct Lanes {
  typedef float Floats __attribute__((vector_size(kGroups * sizeof(float))));
  typedef int32_t Integers __attribute__((vector_size(kGroups * sizeof(int32_t))));
};
template <size_t kGroups>
using PerGroup = typename Lanes<kGroups>::Floats;
template <size_t kGroups>
using PerGroupInteger = typename Lanes<kGroups>::Integers;

inline constexpr float kNothing = 1e-15F;  // weights whose magnitudes are below are taken for zero

// What the squared (or absolute) error of weight x counts.
enum class GroupWeights {
  kGiven,
  kSquare,     // x^2
  kMagnitude,  // |x|
  kRaised,     // |x| + root mean square of the group
};

template <size_t kGroups, size_t kWidth>
struct GroupBlock {
  std::array<PerGroup<kGroups>, kWidth> x;
  std::array<PerGroup<kGroups>, kWidth> weights;
  std::array<PerGroup<kGroups>, kWidth> tried;  // codes
  std::array<PerGroup<kGroups>, kWidth> best;
  PerGroup<kGroups> scale;  // of the best
};

// The functions below are inlined into those of NIBBLE_VECTOR_CLONES.

template <size_t kGroups>
[[gnu::always_inline]] inline void magnitudes(const PerGroup<kGroups>& x, PerGroup<kGroups>& out) {
  out = x < 0.F ? -x : x;
}

// values: group after group, [kGroups][kWidth]. Through memory: one by one into the lanes of
// vectors, they take half of a search's time.
template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void turn_groups(const float* values,
                                               std::array<PerGroup<kGroups>, kWidth>& out) {
  alignas(64) std::array<float, kGroups * kWidth> turned;
  for (size_t g = 0; g < kGroups; ++g) {
    for (size_t i = 0; i < kWidth; ++i) turned[i * kGroups + g] = values[g * kWidth + i];
  }
  std::memcpy(out.data(), turned.data(), sizeof turned);
}

// values, given (of kGiven): as turn_groups.
template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void load_groups(const float* values, GroupWeights rule,
                                               const float* given,
                                               GroupBlock<kGroups, kWidth>& block) {
  turn_groups<kGroups, kWidth>(values, block.x);
  if (rule == GroupWeights::kGiven) {
    turn_groups<kGroups, kWidth>(given, block.weights);
    return;
  }
  if (rule == GroupWeights::kSquare) {
    for (size_t i = 0; i < kWidth; ++i) block.weights[i] = block.x[i] * block.x[i];
    return;
  }
  PerGroup<kGroups> base = {};
  if (rule == GroupWeights::kRaised) {
    for (const PerGroup<kGroups>& x : block.x) base += x * x;
    for (size_t g = 0; g < kGroups; ++g) {
      base[g] = std::sqrt(base[g] / static_cast<float>(kWidth));
    }
  }
  for (size_t i = 0; i < kWidth; ++i) {
    PerGroup<kGroups> magnitude;
    magnitudes<kGroups>(block.x[i], magnitude);
    block.weights[i] = base + magnitude;
  }
}

// The first weight of largest magnitude. nothing: groups without any.
template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void extremes(const GroupBlock<kGroups, kWidth>& block,
                                            PerGroup<kGroups>& extreme,
                                            PerGroupInteger<kGroups>& nothing) {
  PerGroup<kGroups> largest = {};
  extreme = PerGroup<kGroups>{};
  for (const PerGroup<kGroups>& x : block.x) {
    PerGroup<kGroups> magnitude;
    magnitudes<kGroups>(x, magnitude);
    extreme = magnitude > largest ? x : extreme;
    largest = magnitude > largest ? magnitude : largest;
  }
  nothing = largest < kNothing;
}

// code = rne(x), low .. high.
template <size_t kGroups>
[[gnu::always_inline]] inline void round_codes(const PerGroup<kGroups>& x, int low, int high,
                                               PerGroup<kGroups>& code) {
  using Integers = PerGroupInteger<kGroups>;
  const PerGroup<kGroups> shifted = x + kRoundingShift;
  Integers rounded = reinterpret_cast<Integers>(shifted) - std::bit_cast<int32_t>(kRoundingShift);
  rounded = rounded < low ? Integers{} + low : rounded;
  rounded = rounded > high ? Integers{} + high : rounded;
  code = __builtin_convertvector(rounded, PerGroup<kGroups>);
}

}  // namespace nibble
