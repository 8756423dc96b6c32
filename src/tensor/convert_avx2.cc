// Eight at a time, with AVX2 and F16C; what is left over goes through the scalar path. No
// arithmetic but integer and the exact conversions of F16C, so that the bits are the scalar ones.
#include <immintrin.h>

#include <cstdint>

#include "src/tensor/convert_paths.h"

#define NIBBLE_AVX2 __attribute__((target("avx2,fma,f16c")))

namespace nibble {
namespace {

constexpr int64_t kWidth = 8;

NIBBLE_AVX2 inline __m256i load_bits(const float* in) {
  return _mm256_castps_si256(_mm256_loadu_ps(in));
}
NIBBLE_AVX2 inline __m256i all(uint32_t value) {
  return _mm256_set1_epi32(static_cast<int>(value));
}
NIBBLE_AVX2 inline __m256i magnitude_of(__m256i bits) {
  return _mm256_and_si256(bits, all(0x7fffffff));
}
// Dwords of at most 0xffff -> words, in order.
NIBBLE_AVX2 inline __m128i to_words(__m256i dwords) {
  const __m256i packed = _mm256_packus_epi32(dwords, dwords);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}
NIBBLE_AVX2 inline void store_bytes(uint8_t* out, __m256i dwords) {
  const __m128i words = to_words(dwords);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(words, words));
}
// Dwords: b where the sign bit of mask is set, else a.
NIBBLE_AVX2 inline __m256i select(__m256i mask, __m256i b, __m256i a) {
  return _mm256_blendv_epi8(a, b, mask);
}

NIBBLE_AVX2 void f16_to_float(const uint16_t* in, float* out, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(codes));
  }
  kScalarConvert.f16_to_float(in + i, out + i, n - i);
}

NIBBLE_AVX2 void bf16_to_float(const uint16_t* in, float* out, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
    const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), bits);
  }
  kScalarConvert.bf16_to_float(in + i, out + i, n - i);
}

// Normal codes move to float's place and take its bias; subnormal ones are integers times the
// type's smallest value.
NIBBLE_AVX2 void f8_to_float(const uint8_t* in, float* out, int64_t n, const F8Rule& rule) {
  const __m128i shift = _mm_cvtsi32_si128(23 - rule.mantissa_bits);
  const __m256i rebias = all(static_cast<uint32_t>(127 - rule.bias) << 23);
  const __m256i first_normal = all(1U << rule.mantissa_bits);
  const __m256 smallest =
      _mm256_castsi256_ps(all(static_cast<uint32_t>(128 - rule.bias - rule.mantissa_bits) << 23));
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(in + i));
    const __m256i byte = _mm256_cvtepu8_epi32(packed);
    const __m256i code = _mm256_and_si256(byte, all(0x7f));
    const __m256i normal = _mm256_add_epi32(_mm256_sll_epi32(code, shift), rebias);
    const __m256 subnormal = _mm256_mul_ps(_mm256_cvtepi32_ps(code), smallest);
    const __m256i is_subnormal = _mm256_cmpgt_epi32(first_normal, code);
    __m256i bits = select(is_subnormal, _mm256_castps_si256(subnormal), normal);
    __m256i sign = _mm256_slli_epi32(_mm256_and_si256(byte, all(0x80)), 24);
    if (rule.fnuz) {
      const __m256i is_nan = _mm256_cmpeq_epi32(byte, all(rule.nan));
      bits = select(is_nan, all(0x7fc00000), bits);
      sign = _mm256_andnot_si256(is_nan, sign);
    } else {
      bits = select(_mm256_cmpgt_epi32(code, all(rule.largest)), all(0x7f800000), bits);
      bits = select(_mm256_cmpgt_epi32(code, all(rule.overflow)), all(0x7fc00000), bits);
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_or_si256(bits, sign));
  }
  kScalarConvert.f8_to_float(in + i, out + i, n - i, rule);
}

NIBBLE_AVX2 void float_to_f16(const float* in, uint16_t* out, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m128i codes = _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), codes);
  }
  kScalarConvert.float_to_f16(in + i, out + i, n - i);
}

NIBBLE_AVX2 void float_to_bf16(const float* in, uint16_t* out, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m256i bits = load_bits(in + i);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, all(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, all(0x7fff)), odd);
    const __m256i is_nan = _mm256_cmpgt_epi32(magnitude_of(bits), all(0x7f800000));
    const __m256i nan = _mm256_or_si256(high, all(0x40));
    const __m128i words = to_words(select(is_nan, nan, _mm256_srli_epi32(sum, 16)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), words);
  }
  kScalarConvert.float_to_bf16(in + i, out + i, n - i);
}

// Normal results by integer rounding; subnormal ones by adding a power of two whose last mantissa
// bit is worth the type's smallest value: the addition rounds to nearest even, exactly.
NIBBLE_AVX2 void float_to_f8(const float* in, uint8_t* out, int64_t n, const F8Rule& rule) {
  const int dropped = 23 - rule.mantissa_bits;
  const __m128i shift = _mm_cvtsi32_si128(dropped);
  const __m256i half = all((1U << (dropped - 1)) - 1);
  const __m256i rebias = all(static_cast<uint32_t>(rule.bias - 127) << 23);
  const __m256i smallest_normal = all(static_cast<uint32_t>(128 - rule.bias) << 23);
  const __m256i adder = all(static_cast<uint32_t>(128 - rule.bias + dropped) << 23);
  const __m256i zero = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m256i bits = load_bits(in + i);
    const __m256i magnitude = magnitude_of(bits);
    const __m256i odd = _mm256_and_si256(_mm256_srl_epi32(magnitude, shift), all(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(magnitude, half), odd);
    const __m256i normal = _mm256_srl_epi32(_mm256_add_epi32(rounded, rebias), shift);
    const __m256 sum = _mm256_add_ps(_mm256_castsi256_ps(magnitude), _mm256_castsi256_ps(adder));
    const __m256i subnormal = _mm256_sub_epi32(_mm256_castps_si256(sum), adder);
    const __m256i is_subnormal = _mm256_cmpgt_epi32(smallest_normal, magnitude);
    __m256i code = select(is_subnormal, subnormal, normal);
    const __m256i too_large = _mm256_cmpgt_epi32(code, all(rule.largest));
    code = select(too_large, all(rule.overflow), code);
    __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), all(0x80));
    const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, all(0x7f800000));
    code = select(is_nan, all(rule.nan), code);
    if (rule.fnuz) sign = _mm256_andnot_si256(_mm256_cmpeq_epi32(code, zero), sign);
    store_bytes(out + i, _mm256_or_si256(code, sign));
  }
  kScalarConvert.float_to_f8(in + i, out + i, n - i, rule);
}

NIBBLE_AVX2 void float_to_e8m0(const float* in, uint8_t* out, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m256i bits = load_bits(in + i);
    const __m256i is_subnormal = _mm256_cmpgt_epi32(all(0x00800000), bits);
    const __m256i half = select(is_subnormal, all(0x00200000), all(0x00400000));
    __m256i code = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 23);
    code = _mm256_min_epi32(code, all(254));
    code = _mm256_andnot_si256(_mm256_srai_epi32(bits, 31), code);
    const __m256i is_nan = _mm256_cmpgt_epi32(magnitude_of(bits), all(0x7f800000));
    store_bytes(out + i, select(is_nan, all(255), code));
  }
  kScalarConvert.float_to_e8m0(in + i, out + i, n - i);
}

NIBBLE_AVX2 int64_t sum_of(__m256i dwords) {
  alignas(32) int32_t lanes[kWidth];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), dwords);
  int64_t sum = 0;
  for (const int32_t lane : lanes) sum += lane;
  return sum;
}

// n < 2^33: a lane counts to 2^31. Compares are signed: magnitudes are below 2^31.
NIBBLE_AVX2 LossCount count_loss(const float* in, int64_t n, LossBounds bounds) {
  const __m256i flush = all(bounds.flush + 1);
  const __m256i overflow = all(bounds.overflow - 1);
  __m256i flushed = _mm256_setzero_si256();
  __m256i overflowed = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const __m256i magnitude = magnitude_of(load_bits(in + i));
    const __m256i not_zero = _mm256_cmpgt_epi32(magnitude, _mm256_setzero_si256());
    const __m256i small = _mm256_and_si256(_mm256_cmpgt_epi32(flush, magnitude), not_zero);
    const __m256i finite = _mm256_cmpgt_epi32(all(0x7f800000), magnitude);
    const __m256i large = _mm256_and_si256(_mm256_cmpgt_epi32(magnitude, overflow), finite);
    flushed = _mm256_sub_epi32(flushed, small);
    overflowed = _mm256_sub_epi32(overflowed, large);
  }
  LossCount count = kScalarConvert.count_loss(in + i, n - i, bounds);
  count.flushed += sum_of(flushed);
  count.overflowed += sum_of(overflowed);
  return count;
}

}  // namespace

const ConvertPath kAvx2Convert = {"avx2",      f16_to_float,  bf16_to_float,
                                  f8_to_float, float_to_f16,  float_to_bf16,
                                  float_to_f8, float_to_e8m0, count_loss};

}  // namespace nibble
