// Eight floats at a time, AVX2 with FMA.
#include <immintrin.h>

#include <cstdint>

#include "kernels/row_paths.h"

#define NIBBLE_TARGET __attribute__((target("avx2,fma")))

namespace nibble {
namespace {

using Floats = __m256;
constexpr int64_t kWidth = 8;
constexpr int kTileRows = 6;

NIBBLE_TARGET inline Floats set(float v) { return _mm256_set1_ps(v); }
NIBBLE_TARGET inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
NIBBLE_TARGET inline void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
NIBBLE_TARGET inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
NIBBLE_TARGET inline Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
NIBBLE_TARGET inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
NIBBLE_TARGET inline Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
NIBBLE_TARGET inline Floats multiply_add(Floats a, Floats b, Floats c) {
  return _mm256_fmadd_ps(a, b, c);
}
// A NaN in the second operand stays.
NIBBLE_TARGET inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
NIBBLE_TARGET inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
NIBBLE_TARGET inline __m256i first(int64_t n) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lanes);
}
NIBBLE_TARGET inline Floats load_part(const float* p, int64_t n, float fill) {
  const __m256i mask = first(n);
  return _mm256_blendv_ps(set(fill), _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
}
NIBBLE_TARGET inline void store_part(float* p, int64_t n, Floats v) {
  _mm256_maskstore_ps(p, first(n), v);
}
NIBBLE_TARGET inline Floats round(Floats v) {
  return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// 2^n for whole n in -126..127
NIBBLE_TARGET inline Floats power_of_two(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
// In two steps, because 2^n itself may be no normal float.
NIBBLE_TARGET inline Floats times_power(Floats v, Floats n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  return multiply(multiply(v, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
}
NIBBLE_TARGET inline float total(Floats v) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
NIBBLE_TARGET inline float largest(Floats v) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

#include "kernels/row_functions.inc"

}  // namespace

const RowPath kAvx2Rows = {
    "avx2", multiply_tile, sum, sum_squares, normalize, activate<silu_of>, activate<gelu_tanh_of>,
    rotate, max,           exp, exp_sum,     scale,     add_row,           add_scaled,
    dot};

}  // namespace nibble
