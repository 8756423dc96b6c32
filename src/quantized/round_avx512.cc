// Sixteen weights at a time, with AVX-512 F, BW, VL and DQ. Rounding clamps before it rounds, which
// is the same because the bounds are integers.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "src/quantized/range_rule.h"
#include "src/quantized/round_paths.h"

#define NIBBLE_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

namespace nibble {
namespace {

constexpr size_t kWidth = 16;
// Classes of _mm512_fpclass_ps_mask: quiet NaN, both infinities, signalling NaN.
constexpr int kNotFinite = 0x01 | 0x08 | 0x10 | 0x80;

NIBBLE_AVX512 inline __m512d lower(__m512 x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
NIBBLE_AVX512 inline __m512d upper(__m512 x) {
  return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
}
NIBBLE_AVX512 inline __m512d add_square(__m512d sum, __m512d x) {
  return _mm512_add_pd(sum, _mm512_mul_pd(x, x));
}
NIBBLE_AVX512 inline __m512i load_codes(const uint8_t* codes) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
}

NIBBLE_AVX512 Extremes extremes(std::span<const float> weights) {
  if (weights.size() < kWidth) return kScalarRound.extremes(weights);
  __m512 smallest = _mm512_loadu_ps(weights.data());
  __m512 largest = smallest;
  __mmask16 bad = 0;
  size_t i = 0;
  for (; i + kWidth <= weights.size(); i += kWidth) {
    const __m512 w = _mm512_loadu_ps(weights.data() + i);
    smallest = _mm512_min_ps(smallest, w);
    largest = _mm512_max_ps(largest, w);
    bad |= _mm512_fpclass_ps_mask(w, kNotFinite);
  }
  Extremes found = {_mm512_reduce_min_ps(smallest), _mm512_reduce_max_ps(largest), bad == 0};
  if (i < weights.size()) {
    const Extremes rest = kScalarRound.extremes(weights.subspan(i));
    found.smallest = std::min(found.smallest, rest.smallest);
    found.largest = std::max(found.largest, rest.largest);
    found.finite = found.finite && rest.finite;
  }
  return found;
}

NIBBLE_AVX512 void round(std::span<const float> weights, RoundRule rule, uint8_t* codes,
                         RowSums& sums) {
  const __m512 scale = _mm512_set1_ps(rule.scale);
  const __m512 low = _mm512_set1_ps(static_cast<float>(rule.first));
  const __m512 high = _mm512_set1_ps(static_cast<float>(rule.first + rule.last));
  const __m512i first = _mm512_set1_epi32(rule.first);
  __m512d error_low = _mm512_loadu_pd(sums.error.data());
  __m512d error_high = _mm512_loadu_pd(sums.error.data() + 8);
  __m512d square_low = _mm512_loadu_pd(sums.square.data());
  __m512d square_high = _mm512_loadu_pd(sums.square.data() + 8);
  size_t i = 0;
  for (; i + kWidth <= weights.size(); i += kWidth) {
    const __m512 w = _mm512_loadu_ps(weights.data() + i);
    const __m512 x = _mm512_min_ps(_mm512_max_ps(_mm512_div_ps(w, scale), low), high);
    const __m512i level = _mm512_cvtps_epi32(x);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i),
                     _mm512_cvtepi32_epi8(_mm512_sub_epi32(level, first)));
    const __m512 read = _mm512_mul_ps(_mm512_cvtepi32_ps(level), scale);
    const __m512d w_low = lower(w);
    const __m512d w_high = upper(w);
    error_low = add_square(error_low, _mm512_sub_pd(w_low, lower(read)));
    error_high = add_square(error_high, _mm512_sub_pd(w_high, upper(read)));
    square_low = add_square(square_low, w_low);
    square_high = add_square(square_high, w_high);
  }
  _mm512_storeu_pd(sums.error.data(), error_low);
  _mm512_storeu_pd(sums.error.data() + 8, error_high);
  _mm512_storeu_pd(sums.square.data(), square_low);
  _mm512_storeu_pd(sums.square.data() + 8, square_high);
  if (i < weights.size()) kScalarRound.round(weights.subspan(i), rule, codes + i, sums);
}

NIBBLE_AVX512 inline __m512 weight_of(const WeightRule& rule, __m512 level) {
  const __m512 product =
      _mm512_mul_ps(_mm512_sub_ps(level, _mm512_set1_ps(rule.zero)), _mm512_set1_ps(rule.scale));
  return rule.has_minimum ? _mm512_add_ps(product, _mm512_set1_ps(rule.minimum)) : product;
}

// At most 16 levels: their weights once, then a look-up in a register.
NIBBLE_AVX512 size_t dequantize_small(std::span<const uint8_t> codes, const Levels& levels,
                                      const WeightRule& rule, float* out) {
  const __m512 table = weight_of(rule, _mm512_loadu_ps(levels.values.data()));
  size_t i = 0;
  for (; i + kWidth <= codes.size(); i += kWidth) {
    _mm512_storeu_ps(out + i, _mm512_permutexvar_ps(load_codes(codes.data() + i), table));
  }
  return i;
}

NIBBLE_AVX512 size_t dequantize_large(std::span<const uint8_t> codes, const Levels& levels,
                                      const WeightRule& rule, float* out) {
  const __m512i lowest = _mm512_set1_epi32(static_cast<int>(levels.values[0]));
  size_t i = 0;
  for (; i + kWidth <= codes.size(); i += kWidth) {
    const __m512i code = load_codes(codes.data() + i);
    const __m512 level = levels.consecutive
                             ? _mm512_cvtepi32_ps(_mm512_add_epi32(code, lowest))
                             : _mm512_i32gather_ps(code, levels.values.data(), sizeof(float));
    _mm512_storeu_ps(out + i, weight_of(rule, level));
  }
  return i;
}

NIBBLE_AVX512 void dequantize(std::span<const uint8_t> codes, const Levels& levels,
                              const WeightRule& rule, float* out) {
  const size_t done = levels.bits <= 4 ? dequantize_small(codes, levels, rule, out)
                                       : dequantize_large(codes, levels, rule, out);
  if (done < codes.size()) kScalarRound.dequantize(codes.subspan(done), levels, rule, out + done);
}

}  // namespace

const RoundPath kAvx512Round = {"avx512", extremes, round, dequantize};

}  // namespace nibble
