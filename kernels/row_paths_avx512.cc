// Sixteen floats at a time, AVX-512 F, BW, VL and DQ.
#ifndef __clang__
// GCC bug 105593: the intrinsics' own undefined operands are reported once inlined.
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

#include <cstdint>

#include "kernels/row_paths.h"

#define NIBBLE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

namespace nibble {
namespace {

using Floats = __m512;
constexpr int64_t kWidth = 16;
constexpr int kTileRows = 14;

NIBBLE_TARGET inline Floats set(float v) { return _mm512_set1_ps(v); }
NIBBLE_TARGET inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
NIBBLE_TARGET inline void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
NIBBLE_TARGET inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
NIBBLE_TARGET inline Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
NIBBLE_TARGET inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
NIBBLE_TARGET inline Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
NIBBLE_TARGET inline Floats multiply_add(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}
// A NaN in the second operand stays.
NIBBLE_TARGET inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
NIBBLE_TARGET inline Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
NIBBLE_TARGET inline __mmask16 first(int64_t n) {
  return static_cast<__mmask16>((1U << static_cast<unsigned>(n)) - 1U);
}
NIBBLE_TARGET inline Floats load_part(const float* p, int64_t n, float fill) {
  return _mm512_mask_loadu_ps(set(fill), first(n), p);
}
NIBBLE_TARGET inline void store_part(float* p, int64_t n, Floats v) {
  _mm512_mask_storeu_ps(p, first(n), v);
}
NIBBLE_TARGET inline Floats round(Floats v) {
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
NIBBLE_TARGET inline Floats times_power(Floats v, Floats n) { return _mm512_scalef_ps(v, n); }
NIBBLE_TARGET inline float total(Floats v) { return _mm512_reduce_add_ps(v); }
NIBBLE_TARGET inline float largest(Floats v) { return _mm512_reduce_max_ps(v); }

#include "kernels/row_functions.inc"

}  // namespace

const RowPath kAvx512Rows = {
    "avx512", multiply_tile, sum, sum_squares, normalize, activate<silu_of>, activate<gelu_tanh_of>,
    rotate,   max,           exp, exp_sum,     scale,     add_row,           add_scaled,
    dot};

}  // namespace nibble
