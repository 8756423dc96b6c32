// Sixteen weights at a time in two AVX2 vectors; otherwise as round_avx512.cc.
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>

#include "src/quantized/blocks.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/round_paths.h"

#define NIBBLE_AVX2 __attribute__((target("avx2")))

namespace nibble {
namespace {

constexpr int64_t kWidth = 8;

NIBBLE_AVX2 inline __m256i load_codes(const uint8_t* codes) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
}
// All ones where x is NaN or infinite: its exponent is full.
NIBBLE_AVX2 inline __m256i not_finite(__m256 x) {
  const __m256i exponent = _mm256_set1_epi32(0x7f800000);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(x), exponent), exponent);
}

// The smallest and the largest lane.
NIBBLE_AVX2 inline float smallest_of(__m256 x) {
  __m128 least = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  least = _mm_min_ps(least, _mm_movehl_ps(least, least));
  return _mm_cvtss_f32(_mm_min_ss(least, _mm_movehdup_ps(least)));
}
NIBBLE_AVX2 inline float largest_of(__m256 x) {
  __m128 most = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  most = _mm_max_ps(most, _mm_movehl_ps(most, most));
  return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

NIBBLE_AVX2 Extremes extremes_of(const float* weights, int64_t n) {
  const Run tail = {n / kWidth * kWidth, n, 0};
  Extremes rest;
  if (tail.first < n) kScalarRound.extremes(weights, {&tail, 1}, &rest);
  if (n < kWidth) return rest;
  __m256 smallest = _mm256_loadu_ps(weights);
  __m256 largest = smallest;
  __m256i bad = _mm256_setzero_si256();
  for (int64_t i = 0; i < tail.first; i += kWidth) {
    const __m256 w = _mm256_loadu_ps(weights + i);
    smallest = _mm256_min_ps(smallest, w);
    largest = _mm256_max_ps(largest, w);
    bad = _mm256_or_si256(bad, not_finite(w));
  }
  const Extremes found = {smallest_of(smallest), largest_of(largest),
                          _mm256_testz_si256(bad, bad) != 0};
  if (tail.first == n) return found;
  return {std::min(found.smallest, rest.smallest), std::max(found.largest, rest.largest),
          found.finite && rest.finite};
}

NIBBLE_AVX2 void extremes(const float* weights, std::span<const Run> runs, Extremes* extremes) {
  for (size_t r = 0; r < runs.size(); ++r) {
    extremes[r] = extremes_of(weights + runs[r].first, runs[r].end - runs[r].first);
  }
}

struct Constants {
  __m256 scale;
  __m256 low;
  __m256 high;
  __m256i first;
};

// Codes minus `first` of eight weights.
NIBBLE_AVX2 inline __m256i round_eight(const float* weights, const Constants& rule) {
  const __m256 w = _mm256_loadu_ps(weights);
  const __m256 x = _mm256_min_ps(_mm256_max_ps(_mm256_div_ps(w, rule.scale), rule.low), rule.high);
  return _mm256_sub_epi32(_mm256_cvtps_epi32(x), rule.first);
}

// Whole sixteens of a run; returns how far it came.
NIBBLE_AVX2 int64_t round_sixteens(const float* weights, const Run& run, const RoundRule& rule,
                                   uint8_t* codes) {
  const Constants constants = {
      _mm256_set1_ps(rule.scale), _mm256_set1_ps(static_cast<float>(rule.first)),
      _mm256_set1_ps(static_cast<float>(rule.first + rule.last)), _mm256_set1_epi32(rule.first)};
  int64_t i = run.first;
  for (; i + 2 * kWidth <= run.end; i += 2 * kWidth) {
    const __m256i a = round_eight(weights + i, constants);
    const __m256i b = round_eight(weights + i + kWidth, constants);
    // 32 to 16 bits inside each half of the vector, then the halves in order, then to bytes.
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
    const __m128i bytes =
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), bytes);
  }
  return i;
}

NIBBLE_AVX2 void round(const float* weights, std::span<const Run> runs, const RoundRule* rules,
                       uint8_t* codes) {
  for (size_t r = 0; r < runs.size(); ++r) {
    const Run tail = {round_sixteens(weights, runs[r], rules[r], codes), runs[r].end, 0};
    if (tail.first < tail.end) kScalarRound.round(weights, {&tail, 1}, rules + r, codes);
  }
}

NIBBLE_AVX2 inline __m256 weight_of(const WeightRule& rule, __m256 level) {
  const __m256 product =
      _mm256_mul_ps(_mm256_sub_ps(level, _mm256_set1_ps(rule.zero)), _mm256_set1_ps(rule.scale));
  return rule.has_minimum ? _mm256_add_ps(product, _mm256_set1_ps(rule.minimum)) : product;
}

// At most 16 levels: their weights once, then look-ups in two registers; bit 3 of the code, moved
// to the sign, chooses between them.
NIBBLE_AVX2 int64_t dequantize_small(std::span<const uint8_t> codes, const Levels& levels,
                                     const WeightRule& rule, float* out) {
  const __m256 low = weight_of(rule, _mm256_loadu_ps(levels.values.data()));
  const __m256 high = weight_of(rule, _mm256_loadu_ps(levels.values.data() + kWidth));
  int64_t i = 0;
  for (; i + kWidth <= std::ssize(codes); i += kWidth) {
    const __m256i code = load_codes(codes.data() + i);
    const __m256 choice = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));
    _mm256_storeu_ps(out + i, _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code),
                                               _mm256_permutevar8x32_ps(high, code), choice));
  }
  return i;
}

NIBBLE_AVX2 int64_t dequantize_large(std::span<const uint8_t> codes, const Levels& levels,
                                     const WeightRule& rule, float* out) {
  const __m256i lowest = _mm256_set1_epi32(static_cast<int>(levels.values[0]));
  int64_t i = 0;
  for (; i + kWidth <= std::ssize(codes); i += kWidth) {
    const __m256i code = load_codes(codes.data() + i);
    const __m256 level = levels.consecutive
                             ? _mm256_cvtepi32_ps(_mm256_add_epi32(code, lowest))
                             : _mm256_i32gather_ps(levels.values.data(), code, sizeof(float));
    _mm256_storeu_ps(out + i, weight_of(rule, level));
  }
  return i;
}

NIBBLE_AVX2 void dequantize(std::span<const uint8_t> codes, const Levels& levels,
                            const WeightRule& rule, float* out) {
  const int64_t done = levels.bits <= 4 ? dequantize_small(codes, levels, rule, out)
                                        : dequantize_large(codes, levels, rule, out);
  const auto rest = codes.subspan(static_cast<size_t>(done));
  if (!rest.empty()) kScalarRound.dequantize(rest, levels, rule, out + done);
}

}  // namespace

const RoundPath kAvx2Round = {"avx2", extremes, round, dequantize};

}  // namespace nibble
