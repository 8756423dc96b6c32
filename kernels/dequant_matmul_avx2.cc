// Eight weights at a time, with AVX2 and FMA; a chunk of 16 is two halves. As
// dequant_matmul_avx512.cc, but vpermps sees the low 3 bits of a lane only: a table of 16 weights
// is two registers, and the code's top bit, moved to the sign, chooses between their results.
#include <immintrin.h>

#include <cstdint>

#include "formats/packing/packing.h"
#include "kernels/dequant_matmul_paths.h"

#define NIBBLE_TARGET_ENTRY __attribute__((target("avx2,fma")))
#define NIBBLE_TARGET NIBBLE_TARGET_ENTRY __attribute__((always_inline))
#include "kernels/dequant_matmul_walk.h"

namespace nibble {
namespace {

constexpr int kHalf = 8;

struct Weights {
  __m256 half[2];
};

// What all decoders do with a level, in float.
struct Affine {
  __m256 scale;
  __m256 zero;
  __m256 minimum;

  NIBBLE_TARGET void set(float new_scale, float new_zero, float new_minimum) {
    scale = _mm256_set1_ps(new_scale);
    zero = _mm256_set1_ps(new_zero);
    minimum = _mm256_set1_ps(new_minimum);
  }
  NIBBLE_TARGET __m256 of(__m256 level) const {
    return _mm256_add_ps(_mm256_mul_ps(_mm256_sub_ps(level, zero), scale), minimum);
  }
};

NIBBLE_TARGET inline __m256i load_words(const uint32_t* words) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(words));
}

// Moves a bit field from bit `from` to bit `to` of every lane.
template <int kFrom, int kTo>
NIBBLE_TARGET inline __m256i move_bits(__m256i words) {
  if constexpr (kFrom >= kTo) return _mm256_srli_epi32(words, kFrom - kTo);
  return _mm256_slli_epi32(words, kTo > kFrom ? kTo - kFrom : 0);
}

template <int kBits>
struct TableDecode {
  static constexpr int kCodeBits = kBits;
  static constexpr int kTables = kBits == 4 ? 2 : 1;
  __m256 levels[kTables];
  __m256 weights[kTables];

  NIBBLE_TARGET explicit TableDecode(const PackedRow& row) {
    for (int i = 0; i < kTables; ++i) levels[i] = _mm256_loadu_ps(row.levels + i * kHalf);
  }
  NIBBLE_TARGET void set_group(float scale, float zero, float minimum) {
    Affine affine;
    affine.set(scale, zero, minimum);
    for (int i = 0; i < kTables; ++i) weights[i] = affine.of(levels[i]);
  }
  // Code in the low 3 bits of each lane (with others' bits above) -> weight.
  template <int kChunk>
  NIBBLE_TARGET __m256 look_up(const uint32_t* half) const {
    constexpr BitSlices s = chunk_slices<kBits>(kChunk);
    constexpr int kShift = s.low.shift;
    const __m256i words = load_words(half + s.low.word);
    const __m256i low = move_bits<kShift, 0>(words);
    if constexpr (kBits == 4) {
      constexpr int kTopBit = kShift + kBits - 1;
      const __m256 top = _mm256_castsi256_ps(move_bits<kTopBit, 31>(words));
      return _mm256_blendv_ps(_mm256_permutevar8x32_ps(weights[0], low),
                              _mm256_permutevar8x32_ps(weights[1], low), top);
    } else if constexpr (s.high.width > 0) {
      constexpr int kHighShift = s.high.shift;
      constexpr int kHighTo = s.high.lsb;
      const __m256i high = move_bits<kHighShift, kHighTo>(load_words(half + s.high.word));
      const __m256i mask = _mm256_set1_epi32((1 << s.low.width) - 1);
      const __m256i mixed =
          _mm256_xor_si256(_mm256_and_si256(_mm256_xor_si256(low, high), mask), high);
      return _mm256_permutevar8x32_ps(weights[0], mixed);
    } else {
      return _mm256_permutevar8x32_ps(weights[0], low);
    }
  }
  template <int kChunk>
  NIBBLE_TARGET Weights decode(const uint32_t* tile) const {
    return {{look_up<kChunk>(tile), look_up<kChunk>(tile + kHalf)}};
  }
};

struct ByteDecode {
  static constexpr int kCodeBits = 8;
  Affine affine;

  NIBBLE_TARGET void set_group(float scale, float zero, float minimum) {
    affine.set(scale, zero, minimum);
  }
  template <int kChunk>
  NIBBLE_TARGET static __m256i codes(const uint32_t* tile, int half) {
    const uint32_t* words = tile + chunk_slices<8>(kChunk).low.word + half * (kHalf / 4);
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(words)));
  }
};

struct IntegerDecode : ByteDecode {
  __m256i lowest;
  NIBBLE_TARGET explicit IntegerDecode(const PackedRow& row)
      : lowest(_mm256_set1_epi32(row.lowest)) {}
  template <int kChunk>
  NIBBLE_TARGET __m256 half(const uint32_t* tile, int i) const {
    return affine.of(_mm256_cvtepi32_ps(_mm256_add_epi32(codes<kChunk>(tile, i), lowest)));
  }
  template <int kChunk>
  NIBBLE_TARGET Weights decode(const uint32_t* tile) const {
    return {{half<kChunk>(tile, 0), half<kChunk>(tile, 1)}};
  }
};

struct GatherDecode : ByteDecode {
  const float* levels;
  NIBBLE_TARGET explicit GatherDecode(const PackedRow& row) : levels(row.levels) {}
  template <int kChunk>
  NIBBLE_TARGET __m256 half(const uint32_t* tile, int i) const {
    return affine.of(_mm256_i32gather_ps(levels, codes<kChunk>(tile, i), sizeof(float)));
  }
  template <int kChunk>
  NIBBLE_TARGET Weights decode(const uint32_t* tile) const {
    return {{half<kChunk>(tile, 0), half<kChunk>(tile, 1)}};
  }
};

template <int kTokens>
struct TokenSums {
  // Independent sums per token: eight altogether, to hide the latency of the multiply-add.
  static constexpr int kSums = kTokens <= 2 ? 4 : kTokens == 4 ? 2 : 1;
  const float* x;
  __m256 sums[kTokens * kSums] = {};

  NIBBLE_TARGET explicit TokenSums(const float* the_x) : x(the_x) {}
  template <int kChunk, int kToken, int kPart>
  NIBBLE_TARGET void half(__m256 weights) {
    __m256& sum = sums[kToken * kSums + (2 * kChunk + kPart) % kSums];
    const float* values = x + (kChunk * kTokens + kToken) * 2 * kHalf + kPart * kHalf;
    sum = _mm256_fmadd_ps(weights, _mm256_load_ps(values), sum);
  }
  template <int kChunk, int kToken>
  NIBBLE_TARGET void token(const Weights& weights) {
    half<kChunk, kToken, 0>(weights.half[0]);
    half<kChunk, kToken, 1>(weights.half[1]);
  }
  template <int kTileChunks>
  NIBBLE_TARGET void next_tile() {
    x += kTileChunks * kTokens * 2 * kHalf;
  }
  template <int kToken>
  NIBBLE_TARGET float sum() const {
    __m256 total = sums[kToken * kSums];
    for (int i = 1; i < kSums; ++i) total = _mm256_add_ps(total, sums[kToken * kSums + i]);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(total), _mm256_extractf128_ps(total, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
};

struct Store {
  float* out;
  template <int kChunk>
  NIBBLE_TARGET void chunk(const Weights& weights) {
    _mm256_store_ps(out + kChunk * 2 * kHalf, weights.half[0]);
    _mm256_store_ps(out + kChunk * 2 * kHalf + kHalf, weights.half[1]);
  }
  template <int kTileChunks>
  NIBBLE_TARGET void next_tile() {
    out += kTileChunks * 2 * kHalf;
  }
};

struct Avx2 {
  template <int kBits>
  using TableDecode = nibble::TableDecode<kBits>;
  using IntegerDecode = nibble::IntegerDecode;
  using GatherDecode = nibble::GatherDecode;
  template <int kTokens>
  using TokenSums = nibble::TokenSums<kTokens>;
  using Store = nibble::Store;
};

}  // namespace

const DequantPath kAvx2Dequant = {"avx2", select_multiply<Avx2>, select_expand<Avx2>};

}  // namespace nibble
