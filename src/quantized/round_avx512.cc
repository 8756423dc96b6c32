// Sixteen weights at a time, with AVX-512 F, BW, VL and DQ. Rounding clamps before it rounds, which
// is the same because the bounds are integers.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>

#include "src/quantized/blocks.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/round_paths.h"

#define NIBBLE_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

namespace nibble {
namespace {

constexpr int64_t kWidth = 16;
// Classes of _mm512_fpclass_ps_mask: quiet NaN, both infinities, signalling NaN.
constexpr int kNotFinite = 0x01 | 0x08 | 0x10 | 0x80;

NIBBLE_AVX512 inline __m512i load_codes(const uint8_t* codes) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
}

// Lanes that hold weights when `left` are left. Only ends of runs are loaded and stored through
// masks: whole loops of masked stores kept later loads waiting (half the speed from memory).
inline __mmask16 tail_mask(int64_t left) { return static_cast<__mmask16>((1U << left) - 1); }

struct Range {
  __m512 smallest, largest;
  __mmask16 bad;
};

NIBBLE_AVX512 inline void extend(Range& range, __m512 w) {
  range.smallest = _mm512_min_ps(range.smallest, w);
  range.largest = _mm512_max_ps(range.largest, w);
  range.bad |= _mm512_fpclass_ps_mask(w, kNotFinite);
}

NIBBLE_AVX512 Extremes extremes_of(const float* weights, int64_t n) {
  if (n == 0) return {};
  const __m512 start = _mm512_set1_ps(weights[0]);
  Range range = {start, start, 0};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) extend(range, _mm512_loadu_ps(weights + i));
  if (i < n) extend(range, _mm512_mask_loadu_ps(start, tail_mask(n - i), weights + i));
  return {_mm512_reduce_min_ps(range.smallest), _mm512_reduce_max_ps(range.largest),
          range.bad == 0};
}

NIBBLE_AVX512 void extremes(const float* weights, std::span<const Run> runs, Extremes* extremes) {
  for (size_t r = 0; r < runs.size(); ++r) {
    extremes[r] = extremes_of(weights + runs[r].first, runs[r].end - runs[r].first);
  }
}

struct Constants {
  __m512 scale, low, high;
};

// Levels of sixteen weights.
NIBBLE_AVX512 inline __m512i round_sixteen(__m512 w, const Constants& rule) {
  return _mm512_cvtps_epi32(
      _mm512_min_ps(_mm512_max_ps(_mm512_div_ps(w, rule.scale), rule.low), rule.high));
}

NIBBLE_AVX512 void round(const float* weights, std::span<const Run> runs, const RoundRule* rules,
                         uint8_t* codes) {
  for (size_t r = 0; r < runs.size(); ++r) {
    const Constants constants = {
        _mm512_set1_ps(rules[r].scale), _mm512_set1_ps(static_cast<float>(rules[r].first)),
        _mm512_set1_ps(static_cast<float>(rules[r].first + rules[r].last))};
    const __m512i first = _mm512_set1_epi32(rules[r].first);
    int64_t i = runs[r].first;
    for (; i + kWidth <= runs[r].end; i += kWidth) {
      const __m512i level = round_sixteen(_mm512_loadu_ps(weights + i), constants);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i),
                       _mm512_cvtepi32_epi8(_mm512_sub_epi32(level, first)));
    }
    if (i == runs[r].end) continue;
    const __mmask16 mask = tail_mask(runs[r].end - i);
    const __m512i level = round_sixteen(_mm512_maskz_loadu_ps(mask, weights + i), constants);
    _mm512_mask_cvtepi32_storeu_epi8(codes + i, mask, _mm512_sub_epi32(level, first));
  }
}

NIBBLE_AVX512 inline __m512 weight_of(const WeightRule& rule, __m512 level) {
  const __m512 product =
      _mm512_mul_ps(_mm512_sub_ps(level, _mm512_set1_ps(rule.zero)), _mm512_set1_ps(rule.scale));
  return rule.has_minimum ? _mm512_add_ps(product, _mm512_set1_ps(rule.minimum)) : product;
}

// At most 16 levels: their weights once, then a look-up in a register.
NIBBLE_AVX512 int64_t dequantize_small(std::span<const uint8_t> codes, const Levels& levels,
                                       const WeightRule& rule, float* out) {
  const __m512 table = weight_of(rule, _mm512_loadu_ps(levels.values.data()));
  int64_t i = 0;
  for (; i + kWidth <= std::ssize(codes); i += kWidth) {
    _mm512_storeu_ps(out + i, _mm512_permutexvar_ps(load_codes(codes.data() + i), table));
  }
  return i;
}

NIBBLE_AVX512 int64_t dequantize_large(std::span<const uint8_t> codes, const Levels& levels,
                                       const WeightRule& rule, float* out) {
  const __m512i lowest = _mm512_set1_epi32(static_cast<int>(levels.values[0]));
  int64_t i = 0;
  for (; i + kWidth <= std::ssize(codes); i += kWidth) {
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
  const int64_t done = levels.bits <= 4 ? dequantize_small(codes, levels, rule, out)
                                        : dequantize_large(codes, levels, rule, out);
  const auto rest = codes.subspan(static_cast<size_t>(done));
  if (!rest.empty()) kScalarRound.dequantize(rest, levels, rule, out + done);
}

}  // namespace

const RoundPath kAvx512Round = {"avx512", extremes, round, dequantize};

}  // namespace nibble
