// vpmaddwd: products of 16-bit integers, two neighbours added.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/fixed_paths.h"
#include "kernels/row_paths.h"

#define NIBBLE_TARGET __attribute__((target("avx2,fma")))

namespace nibble {
namespace {

constexpr int64_t kWidth = 8;  // outputs of a register
constexpr int kVectors = kPanelWidth / kWidth;
constexpr int kRows = 2;  // 8 sums, 4 weights and 2 inputs fit in 16 registers

NIBBLE_TARGET float round_group(const float* x, int64_t n, int16_t* q) {
  return round_fixed_group(x, n, q);
}

template <int kTokens>
NIBBLE_TARGET void multiply_rows(const FixedTile& tile, int64_t first) {
  __m256i sum[kTokens][kVectors];
  for (auto& row : sum) {
    for (__m256i& vector : row) vector = _mm256_setzero_si256();
  }
  const int16_t* x = tile.x + first * kFixedGroup;
  for (int64_t pair = 0; pair < tile.pairs; ++pair) {
    const auto* w = reinterpret_cast<const __m256i*>(tile.w + pair * 2 * kPanelWidth);
    for (int r = 0; r < kTokens; ++r) {
      int32_t two = 0;
      std::memcpy(&two, x + r * kFixedGroup + 2 * pair, sizeof two);
      const __m256i inputs = _mm256_set1_epi32(two);
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] =
            _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(inputs, _mm256_loadu_si256(w + v)));
      }
    }
  }
  for (int r = 0; r < kTokens; ++r) {
    const __m256 scale = _mm256_set1_ps(tile.x_scale[first + r]);
    float* y = tile.y + (first + r) * tile.y_stride;
    for (int v = 0; v < kVectors; ++v) {
      __m256 product =
          _mm256_mul_ps(_mm256_cvtepi32_ps(sum[r][v]), _mm256_loadu_ps(tile.w_scale + v * kWidth));
      product = _mm256_mul_ps(product, scale);
      if (tile.accumulate) product = _mm256_add_ps(_mm256_loadu_ps(y + v * kWidth), product);
      _mm256_storeu_ps(y + v * kWidth, product);
    }
  }
}

NIBBLE_TARGET void multiply(const FixedTile& tile) {
  int64_t t = 0;
  for (; t + kRows <= tile.rows; t += kRows) multiply_rows<kRows>(tile, t);
  for (; t < tile.rows; ++t) multiply_rows<1>(tile, t);
}

}  // namespace

const FixedPath kAvx2Fixed = {.name = "avx2", .round_group = round_group, .multiply = multiply};

}  // namespace nibble
