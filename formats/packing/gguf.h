// GGUF's block types: where codes and stored parameters lie in a block of 32 or 256 neighbouring
// weights of a row. Page: formats/gguf.md.
//
// A block type is a struct with
//   kWeights, kBytes    of a block
//   kBits               bits of a code
//   kGroup              neighbouring weights that share a first-level scale
//   code(i)             the slices of code i, words are bytes counted from the block's begin
//   kScale              byte of the block's scale: F16, but E8M0 in MXFP4
//   kMinimum            byte of its minimum F16, or kNone
// and, where the scales of groups are quantized in turn (kGroup < kWeights),
//   scale(j), minimum(j)   slices of group j's integers
//   kScaleBias             added to a scale before it is stored
// Q8_0's codes are two's complement: code ^ 128 of those counted from 0.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "formats/packing/packing.h"

namespace nibble {

inline constexpr int kNone = -1;

// Bit i % 32 of half a byte each: weights 0..15 in the low halves, 16..31 in the high ones.
NIBBLE_HD constexpr BitSlice gguf_halves(int first_byte, int i) {
  return {first_byte + i % 16, i / 16 * 4, 4, 0};
}

// Q4_0, Q4_1, Q5_0, Q5_1: scale, minimum, fifth bits as one integer of 32, halves.
template <int kCodeBits, bool kHasMinimum>
struct GgufPlain {
  static_assert(kCodeBits == 4 || kCodeBits == 5);
  static constexpr int kWeights = 32, kGroup = 32, kBits = kCodeBits;
  static constexpr int kScale = 0, kMinimum = kHasMinimum ? 2 : kNone;
  static constexpr int kHigh = kHasMinimum ? 4 : 2;
  static constexpr int kLow = kHigh + (kBits == 5 ? 4 : 0);
  static constexpr int kBytes = kLow + 16;

  NIBBLE_HD static constexpr BitSlices code(int i) {
    if constexpr (kBits == 4) return {gguf_halves(kLow, i), {}};
    return {gguf_halves(kLow, i), {kHigh + i / 8, i % 8, 1, 4}};
  }
};
using GgufQ40 = GgufPlain<4, false>;  // and IQ4_NL
using GgufQ41 = GgufPlain<4, true>;
using GgufQ50 = GgufPlain<5, false>;
using GgufQ51 = GgufPlain<5, true>;

struct GgufQ80 {
  static constexpr int kWeights = 32, kGroup = 32, kBits = 8, kBytes = 34;
  static constexpr int kScale = 0, kMinimum = kNone;
  NIBBLE_HD static constexpr BitSlices code(int i) { return {{2 + i, 0, 8, 0}, {}}; }
};

struct GgufMxfp4 {
  static constexpr int kWeights = 32, kGroup = 32, kBits = 4, kBytes = 17;
  static constexpr int kScale = 0, kMinimum = kNone;
  NIBBLE_HD static constexpr BitSlices code(int i) { return {gguf_halves(1, i), {}}; }
};

// Two bits of weight i: 32 bytes hold 128 weights, a quarter of them in each pair of bits.
NIBBLE_HD constexpr BitSlice gguf_quarters(int first_byte, int i, int lsb) {
  return {first_byte + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2, lsb};
}

// Four bits of weight i: 32 bytes hold 64 weights, half of them in each half.
NIBBLE_HD constexpr BitSlice gguf_pairs_of_32(int first_byte, int i) {
  return {first_byte + i / 64 * 32 + i % 32, i / 32 % 2 * 4, 4, 0};
}

struct GgufQ2K {
  static constexpr int kWeights = 256, kGroup = 16, kBits = 2, kBytes = 84;
  static constexpr int kScale = 80, kMinimum = 82, kScaleBias = 0;
  NIBBLE_HD static constexpr BitSlices code(int i) { return {gguf_quarters(16, i, 0), {}}; }
  NIBBLE_HD static constexpr BitSlices scale(int j) { return {{j, 0, 4, 0}, {}}; }
  NIBBLE_HD static constexpr BitSlices minimum(int j) { return {{j, 4, 4, 0}, {}}; }
};

struct GgufQ3K {
  static constexpr int kWeights = 256, kGroup = 16, kBits = 3, kBytes = 110;
  static constexpr int kScale = 108, kMinimum = kNone, kScaleBias = 32;
  NIBBLE_HD static constexpr BitSlices code(int i) {
    return {gguf_quarters(32, i, 0), {i % 32, i / 32, 1, 2}};
  }
  NIBBLE_HD static constexpr BitSlices scale(int j) {
    return {{96 + j % 8, j / 8 * 4, 4, 0}, {104 + j % 4, j / 4 * 2, 2, 4}};
  }
};

// The eight scales and minimums of Q4_K and Q5_K, 6 bits each, in 12 bytes: the first four whole in
// bytes 0..3 and 4..7, of the others four bits in bytes 8..11 and two in the upper bits of 0..7.
NIBBLE_HD constexpr BitSlices gguf_six_bits(int first_byte, int j, bool minimum) {
  const int own = first_byte + (minimum ? 4 : 0) + j % 4;
  if (j < 4) return {{own, 0, 6, 0}, {}};
  return {{first_byte + 4 + j, minimum ? 4 : 0, 4, 0}, {own, 6, 2, 4}};
}

template <int kCodeBits>
struct GgufK {
  static_assert(kCodeBits == 4 || kCodeBits == 5);
  static constexpr int kWeights = 256, kGroup = 32, kBits = kCodeBits;
  static constexpr int kScale = 0, kMinimum = 2, kScaleBias = 0;
  static constexpr int kHigh = 16, kLow = kHigh + (kBits == 5 ? 32 : 0);
  static constexpr int kBytes = kLow + 128;

  NIBBLE_HD static constexpr BitSlices code(int i) {
    if constexpr (kBits == 4) return {gguf_pairs_of_32(kLow, i), {}};
    return {gguf_pairs_of_32(kLow, i), {kHigh + i % 32, i / 32, 1, 4}};
  }
  NIBBLE_HD static constexpr BitSlices scale(int j) { return gguf_six_bits(4, j, false); }
  NIBBLE_HD static constexpr BitSlices minimum(int j) { return gguf_six_bits(4, j, true); }
};
using GgufQ4K = GgufK<4>;
using GgufQ5K = GgufK<5>;

struct GgufQ6K {
  static constexpr int kWeights = 256, kGroup = 16, kBits = 6, kBytes = 210;
  static constexpr int kScale = 208, kMinimum = kNone, kScaleBias = 0;
  NIBBLE_HD static constexpr BitSlices code(int i) {
    return {{i / 128 * 64 + i % 64, i % 128 / 64 * 4, 4, 0}, gguf_quarters(128, i, 4)};
  }
  NIBBLE_HD static constexpr BitSlices scale(int j) { return {{192 + j, 0, 8, 0}, {}}; }
};

struct GgufIq4Xs {
  static constexpr int kWeights = 256, kGroup = 32, kBits = 4, kBytes = 136;
  static constexpr int kScale = 0, kMinimum = kNone, kScaleBias = 32;
  NIBBLE_HD static constexpr BitSlices code(int i) {
    return {gguf_halves(8 + i / 32 * 16, i % 32), {}};
  }
  NIBBLE_HD static constexpr BitSlices scale(int j) {
    return {{4 + j / 2, j % 2 * 4, 4, 0}, {2 + j / 4, j % 4 * 2, 2, 4}};
  }
};

// The codes of a block type as a layout: rows of blocks, one row after the other.
template <typename Block>
struct GgufCodes {
  using Word = uint8_t;
  static constexpr int kBits = Block::kBits;

  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t K) {
    return N * divide_up(K, Block::kWeights) * Block::kBytes;
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t /*N*/, int64_t K) {
    BitSlices slices = Block::code(static_cast<int>(k % Block::kWeights));
    const int64_t first = words(n, K) + k / Block::kWeights * Block::kBytes;
    slices.low.word += first;
    slices.high.word += first;
    return slices;
  }
};

// Whole blocks, 8 codes at a time. The slices of 8 neighbours have one shift and neighbouring
// bytes, or neighbouring bits of one byte; which, and where, is known at compile time. Host only.
template <typename Block, bool kHigh>
constexpr BitSlice gguf_slice(int i) {
  return kHigh ? Block::code(i).high : Block::code(i).low;
}

template <typename Block, bool kHigh>
constexpr bool gguf_moves_through_bytes() {
  for (int i = 0; i < Block::kWeights; ++i) {
    const BitSlice first = gguf_slice<Block, kHigh>(i / 8 * 8);
    const BitSlice slice = gguf_slice<Block, kHigh>(i);
    if (slice.shift != first.shift || slice.word != first.word + i % 8) return false;
  }
  return true;
}

// visit(slice of codes i..i+7's first, i) for every run of 8, with the slice a constant.
template <typename Block, bool kHigh, typename Visit>
void gguf_runs(const Visit& visit) {
  [&]<int... kRun>(std::integer_sequence<int, kRun...>) {
    (visit(std::integral_constant<int, kRun * 8>{}), ...);
  }
  (std::make_integer_sequence<int, Block::kWeights / 8>{});
}

template <typename Block, bool kHigh>
void pack_gguf_slices(const uint8_t* codes, uint8_t* block) {
  if constexpr (gguf_slice<Block, kHigh>(0).width > 0) {
    gguf_runs<Block, kHigh>([&](auto run) {
      constexpr int kFirst = decltype(run)::value;
      constexpr BitSlice kSlice = gguf_slice<Block, kHigh>(kFirst);
      constexpr uint32_t kMask = (1u << kSlice.width) - 1;
      constexpr bool kBytewise = gguf_moves_through_bytes<Block, kHigh>();
      for (int i = 0; i < 8; ++i) {
        const uint32_t bits = codes[kFirst + i] >> kSlice.lsb & kMask;
        uint8_t& byte = block[kSlice.word + (kBytewise ? i : 0)];
        byte = static_cast<uint8_t>(byte | bits << (kBytewise ? kSlice.shift : i));
      }
    });
  }
}

template <typename Block, bool kHigh>
void unpack_gguf_slices(const uint8_t* block, uint8_t* codes) {
  if constexpr (gguf_slice<Block, kHigh>(0).width > 0) {
    gguf_runs<Block, kHigh>([&](auto run) {
      constexpr int kFirst = decltype(run)::value;
      constexpr BitSlice kSlice = gguf_slice<Block, kHigh>(kFirst);
      constexpr uint32_t kMask = (1u << kSlice.width) - 1;
      constexpr bool kBytewise = gguf_moves_through_bytes<Block, kHigh>();
      for (int i = 0; i < 8; ++i) {
        const uint32_t byte = block[kSlice.word + (kBytewise ? i : 0)];
        const uint32_t bits = (byte >> (kBytewise ? kSlice.shift : i) & kMask) << kSlice.lsb;
        codes[kFirst + i] = static_cast<uint8_t>(kHigh ? codes[kFirst + i] | bits : bits);
      }
    });
  }
}

// codes [kWeights], each below 2^kBits, into a block whose code bits are zero.
template <typename Block>
void pack_gguf_codes(const uint8_t* codes, uint8_t* block) {
  pack_gguf_slices<Block, false>(codes, block);
  pack_gguf_slices<Block, true>(codes, block);
}

template <typename Block>
void unpack_gguf_codes(const uint8_t* block, uint8_t* codes) {
  unpack_gguf_slices<Block, false>(block, codes);
  unpack_gguf_slices<Block, true>(block, codes);
}

}  // namespace nibble
