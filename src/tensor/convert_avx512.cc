// Sixteen at a time, with AVX-512 F, BW, VL and DQ; otherwise as convert_avx2.cc. (AVX512-BF16's
// own conversion is of no use: it makes subnormals zero.)
#include <immintrin.h>

#include <cstdint>

#include "src/tensor/convert_paths.h"

#define NIBBLE_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

namespace nibble {
namespace {

constexpr int64_t kWidth = 16;

NIBBLE_AVX512 inline __m512i load_bits(const float* in) {
  return _mm512_castps_si512(_mm512_loadu_ps(in));
}
NIBBLE_AVX512 inline __m512i all(uint32_t value) {
  return _mm512_set1_epi32(static_cast<int>(value));
}
NIBBLE_AVX512 inline __m512i magnitude_of(__m512i bits) {
  return _mm512_and_si512(bits, all(0x7fffffff));
}
NIBBLE_AVX512 inline __m256i load_words(const uint16_t* in) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
}
NIBBLE_AVX512 inline void store_words(uint16_t* out, __m256i words) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), words);
}
NIBBLE_AVX512 inline void store_bytes(uint8_t* out, __m512i dwords) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(dwords));
}
NIBBLE_AVX512 inline __mmask16 is_nan(__m512i magnitude) {
  return _mm512_cmpgt_epi32_mask(magnitude, all(0x7f800000));
}

NIBBLE_AVX512 void f16_to_float(const uint16_t* in, float* out, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    _mm512_storeu_ps(out + i, _mm512_cvtph_ps(load_words(in + i)));
  }
  kScalarConvert.f16_to_float(in + i, out + i, n - i);
}

NIBBLE_AVX512 void bf16_to_float(const uint16_t* in, float* out, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(load_words(in + i)), 16);
    _mm512_storeu_ps(out + i, _mm512_castsi512_ps(bits));
  }
  kScalarConvert.bf16_to_float(in + i, out + i, n - i);
}

NIBBLE_AVX512 void f8_to_float(const uint8_t* in, float* out, int64_t n, const F8Rule& rule) {
  const __m128i shift = _mm_cvtsi32_si128(23 - rule.mantissa_bits);
  const __m512i rebias = all(static_cast<uint32_t>(127 - rule.bias) << 23);
  const __m512i first_normal = all(1U << rule.mantissa_bits);
  const __m512 smallest =
      _mm512_castsi512_ps(all(static_cast<uint32_t>(128 - rule.bias - rule.mantissa_bits) << 23));
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
    const __m512i byte = _mm512_cvtepu8_epi32(packed);
    const __m512i code = _mm512_and_si512(byte, all(0x7f));
    const __m512i normal = _mm512_add_epi32(_mm512_sll_epi32(code, shift), rebias);
    const __m512 subnormal = _mm512_mul_ps(_mm512_cvtepi32_ps(code), smallest);
    const __mmask16 is_subnormal = _mm512_cmplt_epi32_mask(code, first_normal);
    __m512i bits = _mm512_mask_mov_epi32(normal, is_subnormal, _mm512_castps_si512(subnormal));
    __m512i sign = _mm512_slli_epi32(_mm512_and_si512(byte, all(0x80)), 24);
    if (rule.fnuz) {
      const __mmask16 is_number = _mm512_cmpneq_epi32_mask(byte, all(rule.nan));
      bits = _mm512_mask_mov_epi32(all(0x7fc00000), is_number, bits);
      sign = _mm512_maskz_mov_epi32(is_number, sign);
    } else {
      const __mmask16 beyond = _mm512_cmpgt_epi32_mask(code, all(rule.largest));
      const __mmask16 no_number = _mm512_cmpgt_epi32_mask(code, all(rule.overflow));
      bits = _mm512_mask_mov_epi32(bits, beyond, all(0x7f800000));
      bits = _mm512_mask_mov_epi32(bits, no_number, all(0x7fc00000));
    }
    _mm512_storeu_ps(out + i, _mm512_castsi512_ps(_mm512_or_si512(bits, sign)));
  }
  kScalarConvert.f8_to_float(in + i, out + i, n - i, rule);
}

NIBBLE_AVX512 void float_to_f16(const float* in, uint16_t* out, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    store_words(out + i, _mm512_cvtps_ph(_mm512_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
  }
  kScalarConvert.float_to_f16(in + i, out + i, n - i);
}

NIBBLE_AVX512 void float_to_bf16(const float* in, uint16_t* out, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m512i bits = load_bits(in + i);
    const __m512i high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, all(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, all(0x7fff)), odd);
    __m512i code = _mm512_srli_epi32(sum, 16);
    code = _mm512_mask_or_epi32(code, is_nan(magnitude_of(bits)), high, all(0x40));
    store_words(out + i, _mm512_cvtepi32_epi16(code));
  }
  kScalarConvert.float_to_bf16(in + i, out + i, n - i);
}

// As in convert_avx2.cc.
NIBBLE_AVX512 void float_to_f8(const float* in, uint8_t* out, int64_t n, const F8Rule& rule) {
  const int dropped = 23 - rule.mantissa_bits;
  const __m128i shift = _mm_cvtsi32_si128(dropped);
  const __m512i half = all((1U << (dropped - 1)) - 1);
  const __m512i rebias = all(static_cast<uint32_t>(rule.bias - 127) << 23);
  const __m512i smallest_normal = all(static_cast<uint32_t>(128 - rule.bias) << 23);
  const __m512i adder = all(static_cast<uint32_t>(128 - rule.bias + dropped) << 23);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m512i bits = load_bits(in + i);
    const __m512i magnitude = magnitude_of(bits);
    const __m512i odd = _mm512_and_si512(_mm512_srl_epi32(magnitude, shift), all(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(magnitude, half), odd);
    __m512i code = _mm512_srl_epi32(_mm512_add_epi32(rounded, rebias), shift);
    const __m512 sum = _mm512_add_ps(_mm512_castsi512_ps(magnitude), _mm512_castsi512_ps(adder));
    const __mmask16 is_subnormal = _mm512_cmplt_epi32_mask(magnitude, smallest_normal);
    code = _mm512_mask_sub_epi32(code, is_subnormal, _mm512_castps_si512(sum), adder);
    const __mmask16 too_large = _mm512_cmpgt_epi32_mask(code, all(rule.largest));
    code = _mm512_mask_mov_epi32(code, too_large, all(rule.overflow));
    code = _mm512_mask_mov_epi32(code, is_nan(magnitude), all(rule.nan));
    const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(bits, 24), all(0x80));
    const __mmask16 keeps_sign = rule.fnuz ? _mm512_test_epi32_mask(code, code) : __mmask16(0xffff);
    store_bytes(out + i, _mm512_mask_or_epi32(code, keeps_sign, code, sign));
  }
  kScalarConvert.float_to_f8(in + i, out + i, n - i, rule);
}

NIBBLE_AVX512 void float_to_e8m0(const float* in, uint8_t* out, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m512i bits = load_bits(in + i);
    const __mmask16 is_subnormal = _mm512_cmplt_epi32_mask(bits, all(0x00800000));
    const __m512i half = _mm512_mask_mov_epi32(all(0x00400000), is_subnormal, all(0x00200000));
    __m512i code = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 23);
    code = _mm512_min_epi32(code, all(254));
    const __mmask16 is_positive = _mm512_cmpge_epi32_mask(bits, _mm512_setzero_si512());
    code = _mm512_maskz_mov_epi32(is_positive, code);
    store_bytes(out + i, _mm512_mask_mov_epi32(code, is_nan(magnitude_of(bits)), all(255)));
  }
  kScalarConvert.float_to_e8m0(in + i, out + i, n - i);
}

NIBBLE_AVX512 LossCount count_loss(const float* in, int64_t n, LossBounds bounds) {
  LossCount count;
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m512i magnitude = magnitude_of(load_bits(in + i));
    const __m512i below = _mm512_sub_epi32(magnitude, all(1));
    const __mmask16 small = _mm512_cmplt_epu32_mask(below, all(bounds.flush));
    const __mmask16 finite = _mm512_cmplt_epu32_mask(magnitude, all(0x7f800000));
    const __mmask16 large = _mm512_mask_cmpge_epu32_mask(finite, magnitude, all(bounds.overflow));
    count.flushed += _mm_popcnt_u32(small);
    count.overflowed += _mm_popcnt_u32(large);
  }
  const LossCount rest = kScalarConvert.count_loss(in + i, n - i, bounds);
  return {count.flushed + rest.flushed, count.overflowed + rest.overflowed};
}

}  // namespace

const ConvertPath kAvx512Convert = {"avx512",    f16_to_float,  bf16_to_float,
                                    f8_to_float, float_to_f16,  float_to_bf16,
                                    float_to_f8, float_to_e8m0, count_loss};

}  // namespace nibble
