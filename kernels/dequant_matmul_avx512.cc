// Sixteen weights at a time, with AVX-512 F, BW, VL and DQ.
//
// 2, 3 and 4 bits: one shift brings the codes of 16 columns to bit 0 of the 16 lanes, and vpermps
// looks them up in a register that holds the weights of all codes of the group, (levels - zero) *
// scale + minimum. It reads the low 4 bits of each lane only, so nothing is masked, and a table
// grid costs what an integer grid costs: three instructions with the multiply-add.
//
// Rows are walked one after the other: with several rows at once, streams of one row's distance
// defeat the hardware prefetcher (a cold matrix took 1.5 times as long).
// GCC 12 takes the undefined operands of its own intrinsics, once inlined, for a mistake (its bug
// 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>

#include <cstdint>

#include "kernels/dequant_matmul_paths.h"

#define NIBBLE_TARGET_ENTRY __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define NIBBLE_TARGET NIBBLE_TARGET_ENTRY __attribute__((always_inline))
#include "formats/packing/packing.h"
#include "kernels/dequant_matmul_walk.h"

namespace nibble {
namespace {

template <int kBits>
struct TableDecode {
  static constexpr int kCodeBits = kBits;
  __m512 levels;
  __m512 weights;

  NIBBLE_TARGET explicit TableDecode(const PackedRow& row) : levels(_mm512_loadu_ps(row.levels)) {}
  NIBBLE_TARGET void set_group(float scale, float zero, float minimum) {
    weights = _mm512_sub_ps(levels, _mm512_set1_ps(zero));
    weights = _mm512_mul_ps(weights, _mm512_set1_ps(scale));
    weights = _mm512_add_ps(weights, _mm512_set1_ps(minimum));
  }
  // Codes in the low bits of each lane, repeated or with others' bits above them.
  template <int kChunk>
  NIBBLE_TARGET static __m512i codes(const uint32_t* tile) {
    constexpr BitSlices s = chunk_slices<kBits>(kChunk);
    constexpr int kShift = s.low.shift;
    const __m512i low = _mm512_srli_epi32(_mm512_load_si512(tile + s.low.word), kShift);
    if constexpr (s.high.width == 0) {
      return low;
    } else {
      constexpr int kRotate = (s.high.lsb - s.high.shift + 32) % 32;
      const __m512i high = _mm512_rol_epi32(_mm512_load_si512(tile + s.high.word), kRotate);
      const __m512i mask = _mm512_set1_epi32((1 << s.low.width) - 1);
      return _mm512_ternarylogic_epi32(mask, low, high, 0xca);  // mask ? low : high
    }
  }
  template <int kChunk>
  NIBBLE_TARGET __m512 decode(const uint32_t* tile) const {
    return _mm512_permutexvar_ps(codes<kChunk>(tile), weights);
  }
};

struct ByteDecode {
  static constexpr int kCodeBits = 8;
  __m512 scale;
  __m512 zero;
  __m512 minimum;

  NIBBLE_TARGET void set_group(float new_scale, float new_zero, float new_minimum) {
    scale = _mm512_set1_ps(new_scale);
    zero = _mm512_set1_ps(new_zero);
    minimum = _mm512_set1_ps(new_minimum);
  }
  template <int kChunk>
  NIBBLE_TARGET static __m512i codes(const uint32_t* tile) {
    const uint32_t* words = tile + chunk_slices<8>(kChunk).low.word;
    return _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(words)));
  }
  NIBBLE_TARGET __m512 apply(__m512 level) const {
    return _mm512_add_ps(_mm512_mul_ps(_mm512_sub_ps(level, zero), scale), minimum);
  }
};

struct IntegerDecode : ByteDecode {
  __m512i lowest;
  NIBBLE_TARGET explicit IntegerDecode(const PackedRow& row)
      : lowest(_mm512_set1_epi32(row.lowest)) {}
  template <int kChunk>
  NIBBLE_TARGET __m512 decode(const uint32_t* tile) const {
    return apply(_mm512_cvtepi32_ps(_mm512_add_epi32(codes<kChunk>(tile), lowest)));
  }
};

struct GatherDecode : ByteDecode {
  const float* levels;
  NIBBLE_TARGET explicit GatherDecode(const PackedRow& row) : levels(row.levels) {}
  template <int kChunk>
  NIBBLE_TARGET __m512 decode(const uint32_t* tile) const {
    return apply(_mm512_i32gather_ps(codes<kChunk>(tile), levels, sizeof(float)));
  }
};

template <int kTokens>
struct TokenSums {
  // Independent sums per token, to hide the latency of the multiply-add.
  static constexpr int kSums = kTokens <= 2 ? 4 : kTokens == 4 ? 2 : 1;
  const float* x;
  __m512 sums[kTokens * kSums] = {};

  NIBBLE_TARGET explicit TokenSums(const float* the_x) : x(the_x) {}
  template <int kChunk, int kToken>
  NIBBLE_TARGET void token(__m512 weights) {
    __m512& sum = sums[kToken * kSums + kChunk % kSums];
    sum = _mm512_fmadd_ps(weights, _mm512_load_ps(x + (kChunk * kTokens + kToken) * 16), sum);
  }
  template <int kTileChunks>
  NIBBLE_TARGET void next_tile() {
    x += kTileChunks * kTokens * 16;
  }
  template <int kToken>
  NIBBLE_TARGET float sum() const {
    __m512 total = sums[kToken * kSums];
    for (int i = 1; i < kSums; ++i) total = _mm512_add_ps(total, sums[kToken * kSums + i]);
    return _mm512_reduce_add_ps(total);
  }
};

struct Store {
  float* out;
  template <int kChunk>
  NIBBLE_TARGET void chunk(__m512 weights) {
    _mm512_store_ps(out + kChunk * 16, weights);
  }
  template <int kTileChunks>
  NIBBLE_TARGET void next_tile() {
    out += kTileChunks * 16;
  }
};

struct Avx512 {
  template <int kBits>
  using TableDecode = nibble::TableDecode<kBits>;
  using IntegerDecode = nibble::IntegerDecode;
  using GatherDecode = nibble::GatherDecode;
  template <int kTokens>
  using TokenSums = nibble::TokenSums<kTokens>;
  using Store = nibble::Store;
};

}  // namespace

const DequantPath kAvx512Dequant = {"avx512", select_multiply<Avx512>, select_expand<Avx512>};

}  // namespace nibble
