// vpdpwssd: two products of 16-bit integers added to 32 bits, twice the products of a float
// instruction of the same length.
#ifndef __clang__
// GCC bug 105593: the intrinsics' own undefined operands are reported once inlined.
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/fixed_paths.h"
#include "kernels/row_paths.h"

#define NIBBLE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

namespace nibble {
namespace {

constexpr int64_t kWidth = 16;  // outputs of a register
constexpr int kRows = 14;       // whose two registers each, with three more, all fit

NIBBLE_TARGET float round_group(const float* x, int64_t n, int16_t* q) {
  return round_fixed_group(x, n, q);
}

// _mm512_dpwssd_epi32 in place: GCC 12 gives the intrinsic's sums second registers and spills,
// which halves the speed.
NIBBLE_TARGET inline void add_products(__m512i& sum, __m512i w, __m512i x) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
}

NIBBLE_TARGET inline void add_scaled(__m512i sum, __m512 w_scale, __m512 x_scale, bool accumulate,
                                     float* y) {
  __m512 product = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), w_scale), x_scale);
  if (accumulate) product = _mm512_add_ps(_mm512_loadu_ps(y), product);
  _mm512_storeu_ps(y, product);
}

template <int kTokens>
NIBBLE_TARGET void multiply_rows(const FixedTile& tile, int64_t first) {
  __m512i left[kTokens];
  __m512i right[kTokens];
#pragma GCC unroll 14
  for (int r = 0; r < kTokens; ++r) left[r] = right[r] = _mm512_setzero_si512();
  const int16_t* x = tile.x + first * kFixedGroup;
  const int64_t pairs = tile.pairs;
  const auto step = [&](int64_t pair) NIBBLE_TARGET __attribute__((always_inline)) {
    const __m512i w_left = _mm512_loadu_si512(tile.w + pair * 2 * kPanelWidth);
    const __m512i w_right = _mm512_loadu_si512(tile.w + pair * 2 * kPanelWidth + 2 * kWidth);
#pragma GCC unroll 14
    for (int r = 0; r < kTokens; ++r) {
      int32_t two = 0;
      std::memcpy(&two, x + r * kFixedGroup + 2 * pair, sizeof two);
      const __m512i inputs = _mm512_set1_epi32(two);
      add_products(left[r], w_left, inputs);
      add_products(right[r], w_right, inputs);
    }
  };
  int64_t pair = 0;
  for (; pair + 4 <= pairs; pair += 4) {
    step(pair);
    step(pair + 1);
    step(pair + 2);
    step(pair + 3);
  }
  for (; pair < pairs; ++pair) step(pair);
  const __m512 scale_left = _mm512_loadu_ps(tile.w_scale);
  const __m512 scale_right = _mm512_loadu_ps(tile.w_scale + kWidth);
#pragma GCC unroll 14
  for (int r = 0; r < kTokens; ++r) {
    const __m512 scale = _mm512_set1_ps(tile.x_scale[first + r]);
    float* y = tile.y + (first + r) * tile.y_stride;
    add_scaled(left[r], scale_left, scale, tile.accumulate, y);
    add_scaled(right[r], scale_right, scale, tile.accumulate, y + kWidth);
  }
}

template <int kTokens>
NIBBLE_TARGET void multiply_up_to(int64_t rows, const FixedTile& tile, int64_t first) {
  if (rows == kTokens) return multiply_rows<kTokens>(tile, first);
  if constexpr (kTokens > 1) multiply_up_to<kTokens - 1>(rows, tile, first);
}

// Rows in blocks of nearly equal height.
NIBBLE_TARGET void multiply(const FixedTile& tile) {
  const int64_t blocks = (tile.rows + kRows - 1) / kRows;
  int64_t row = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t rows = tile.rows / blocks + (block < tile.rows % blocks ? 1 : 0);
    multiply_up_to<kRows>(rows, tile, row);
    row += rows;
  }
}

}  // namespace

const FixedPath kVnniFixed = {.name = "vnni", .round_group = round_group, .multiply = multiply};

}  // namespace nibble
