// The instruction-set paths behind the fixed-point products of matmul (kernels/matmul.h): inputs
// and weights as 16-bit integers in groups of kFixedGroup inputs, sums in 32 bits. The
// paths are private to kernels/ and its tests; callers of kernels/fixed_matmul.h cut by
// kFixedGroup.
//
// A group of a row, x = s q, has the smallest s for which the integers' Euclidean norm is at most
// 2^15.5: then no sum of products of two groups, nor a part of one, leaves 32 bits (Cauchy and
// Schwarz), where a bound of the single integers would leave them three bits less. Of normally
// distributed values a group is rounded by 7e-5 of its norm; BF16 rounds by 1.7e-3.
//
// Sums are exact and every rounding is written out, so that all paths give the same bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>

namespace nibble {

inline constexpr int64_t kFixedGroup = 128;  // inputs that share a scale

// y (+)= x w': x [rows, kFixedGroup], w a group of a panel, pairs of inputs of an output side by
// side, [pairs, kPanelWidth, 2]; each sum is added as (sum * w_scale[n]) * x_scale[t].
struct FixedTile {
  const int16_t* x;
  const float* x_scale;  // [rows]
  const int16_t* w;
  const float* w_scale;  // [kPanelWidth]
  float* y;              // [rows, kPanelWidth]
  int64_t y_stride;
  int64_t rows;
  int64_t pairs;  // at most kFixedGroup / 2
  bool accumulate;
};

struct FixedPath {
  const char* name;
  // x: n <= kFixedGroup floats -> q [kFixedGroup], zero beyond n; returns s. A value that is not
  // finite makes s so.
  float (*round_group)(const float* x, int64_t n, int16_t* q);
  void (*multiply)(const FixedTile& tile);
};

extern const FixedPath kScalarFixed;
extern const FixedPath kAvx2Fixed;
extern const FixedPath kVnniFixed;

// Those that may run here, the fastest last.
std::span<const FixedPath* const> fixed_paths();

namespace fixed_group {

inline constexpr int64_t kLanes = 16;
using Lanes [[gnu::vector_size(kLanes * sizeof(float))]] = float;
using IntLanes [[gnu::vector_size(kLanes * sizeof(int32_t))]] = int32_t;
using ShortLanes [[gnu::vector_size(kLanes * sizeof(int16_t))]] = int16_t;

// Each lane takes in the lane kFrom: adds its squares, keeps the larger value.
template <int... kFrom>
[[gnu::always_inline]] inline void fold_lanes(Lanes& squares, Lanes& largest) {
  const Lanes other = __builtin_shufflevector(largest, largest, kFrom...);
  squares += __builtin_shufflevector(squares, squares, kFrom...);
  largest = other > largest ? other : largest;
}

}  // namespace fixed_group

// FixedPath::round_group, for the instruction set of the function that it is compiled into.
[[gnu::always_inline]] inline float round_fixed_group(const float* x, int64_t n, int16_t* q) {
  using fixed_group::IntLanes;
  using fixed_group::Lanes;
  using fixed_group::ShortLanes;
  constexpr float kMostNorm = 46334.F;       // 2^15.5, less what rounding adds: sqrt(128) / 2
  constexpr float kMostSingle = 32766.F;     // of an int16
  constexpr float kMostOfEqual = 4095.F;     // kMostNorm / sqrt(128): any norm fits
  constexpr float kLeastSquares = 0x1p-80F;  // smaller sums may have lost terms,
  constexpr float kMostSquares = 0x1p120F;   // larger ones have no norm in a float
  constexpr float kLeastScale = 0x1p-126F;   // smaller ones have no inverse: all is zero
  constexpr float kMostScale = 0x1p126F;     // above are infinity and NaN
  constexpr float kRounder = 0x1.8p23F;      // v + this - this = rne(v) for |v| <= 2^22
  Lanes values[kFixedGroup / fixed_group::kLanes];
  if (n == kFixedGroup) {
    std::memcpy(&values, x, sizeof values);
  } else {
    std::memset(&values, 0, sizeof values);
    std::memcpy(&values, x, static_cast<size_t>(n) * sizeof(float));
  }
  Lanes squares = {};
  Lanes largest = {};
  for (const Lanes& value : values) {
    const Lanes size = value < 0.F ? -value : value;
    squares += value * value;
    largest = size > largest ? size : largest;
  }
  fixed_group::fold_lanes<8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7>(squares, largest);
  fixed_group::fold_lanes<4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11>(squares, largest);
  fixed_group::fold_lanes<2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13>(squares, largest);
  fixed_group::fold_lanes<1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14>(squares, largest);
  if (std::isnan(squares[0])) largest[0] = squares[0];
  const bool has_squares = squares[0] >= kLeastSquares && squares[0] <= kMostSquares;
  const float of_norm = std::sqrt(squares[0]) / kMostNorm;
  const float of_single = largest[0] / kMostSingle;
  const float scale = !has_squares          ? largest[0] / kMostOfEqual
                      : of_norm > of_single ? of_norm
                                            : of_single;
  if (!(scale >= kLeastScale && scale <= kMostScale)) {
    std::fill_n(q, kFixedGroup, int16_t{0});
    return scale;
  }
  const float inverse = 1.F / scale;
  for (const Lanes& value : values) {
    const Lanes level = (value * inverse + kRounder) - kRounder;
    const auto integers =
        __builtin_convertvector(__builtin_convertvector(level, IntLanes), ShortLanes);
    std::memcpy(q, &integers, sizeof integers);
    q += fixed_group::kLanes;
  }
  return scale;
}

}  // namespace nibble
