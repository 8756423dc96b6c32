// The walk along a packed row that the vector paths share: which chunk, which group, which kernel.
// Private to dequant_matmul_<path>.cc, which defines, before including it,
//   NIBBLE_TARGET        attributes of the path's functions, all inlined into
//   NIBBLE_TARGET_ENTRY  the kernels, which have these
// and hands over a struct Path with
//   TableDecode<kBits>, IntegerDecode, GatherDecode   static kCodeBits; set_group(scale, zero,
//   minimum);
//                                                     decode<chunk>(tile) -> weights of a chunk
//   TokenSums<kTokens>   token<chunk, token>(weights); next_tile<chunks>(); sum<token>()
//   Store                 chunk<chunk>(weights); next_tile<chunks>()
// Everything is in an unnamed namespace: each path has its own copy.
#pragma once

#include <cstdint>
#include <utility>

#include "formats/packing/packing.h"
#include "formats/packing/rows.h"
#include "kernels/dequant_matmul_paths.h"

namespace nibble {
namespace {

// Where the code of the first of a chunk's 16 columns lies in its tile.
template <int kBits>
constexpr BitSlices chunk_slices(int chunk) {
  using Layout = Rows<kBits>;
  return Layout::at(0, Layout::kChunk * chunk, 1, Layout::kTileColumns);
}

// What the decoders take for granted of 2, 3 and 4 bits: column i of a chunk is in word i after the
// first column's, at the same bit.
template <int kBits>
constexpr bool lanes_are_words() {
  for (int k = 0; k < Rows<kBits>::kTileColumns; ++k) {
    const BitSlices s = Rows<kBits>::at(0, k, 1, Rows<kBits>::kTileColumns);
    const BitSlices first = chunk_slices<kBits>(k / Rows<kBits>::kChunk);
    const int lane = k % Rows<kBits>::kChunk;
    if (s.low.word != first.low.word + lane || s.low.shift != first.low.shift) return false;
    if (s.high.width == 0) continue;
    if (s.high.word != first.high.word + lane || s.high.shift != first.high.shift) return false;
  }
  return true;
}
static_assert(lanes_are_words<2>() && lanes_are_words<3>() && lanes_are_words<4>());

// And of 8 bits: a chunk is 16 bytes in order.
constexpr bool codes_are_bytes() {
  for (int k = 0; k < Rows<8>::kTileColumns; ++k) {
    const BitSlice s = Rows<8>::at(0, k, 1, Rows<8>::kTileColumns).low;
    if (s.word * 32 + s.shift != 8 * k) return false;
  }
  return true;
}
static_assert(codes_are_bytes());

// Sets the decoder's parameters as the walk passes from group to group; behind the last one they
// stay (padding of the last tile).
template <class Decode>
struct Groups {
  const PackedRow& row;
  const float* scale;
  const float* zero;
  const float* minimum;
  int64_t groups_left;
  int64_t periods_per_group;
  int64_t periods_left;

  NIBBLE_TARGET Groups(const PackedRow& the_row, int64_t chunk, int period, Decode& decode)
      : row(the_row) {
    const int64_t group = chunk == 0 ? 0 : chunk / row.group_chunks;  // divisions take 5 ns
    scale = row.scale + group * row.scale_step;
    zero = row.zero + group * row.zero_step;
    minimum = row.minimum + group * row.minimum_step;
    groups_left = row.groups - group - 1;
    periods_per_group = row.group_chunks / period;
    periods_left = periods_per_group - (chunk - group * row.group_chunks) / period;
    decode.set_group(*scale, *zero, *minimum);
  }
  NIBBLE_TARGET void next_period(Decode& decode) {
    if (periods_left == 0) {
      if (groups_left > 0) {
        --groups_left;
        scale += row.scale_step;
        zero += row.zero_step;
        minimum += row.minimum_step;
        decode.set_group(*scale, *zero, *minimum);
      }
      periods_left = periods_per_group;
    }
    --periods_left;
  }
};

// Words are asked for this far ahead: 8 KiB, some hundred lines, which a cold matrix takes 15 %
// less time with (1 KiB: no difference).
constexpr int64_t kPrefetchWords = 2048;
constexpr int kLineWords = 16;

// Every chunk's weights of tiles [first, first + tiles) go to use.template chunk<chunk>(weights).
template <class Decode, int kPeriod, class Use>
struct Walk {
  static constexpr int kTileChunks = Rows<Decode::kCodeBits>::kTileChunks;
  static constexpr int kTileWords = Rows<Decode::kCodeBits>::kTileWords;

  Decode& decode;
  Groups<Decode>& groups;
  Use& use;

  template <int kChunk>
  NIBBLE_TARGET void chunk(const uint32_t* tile) {
    if constexpr (kChunk % kPeriod == 0) groups.next_period(decode);
    use.template chunk<kChunk>(decode.template decode<kChunk>(tile));
  }
  template <int... kChunks>
  NIBBLE_TARGET void tile(const uint32_t* words, std::integer_sequence<int, kChunks...>) {
    for (int line = 0; line < kTileWords; line += kLineWords) {
      __builtin_prefetch(words + kPrefetchWords + line);
    }
    (chunk<kChunks>(words), ...);
    use.template next_tile<kTileChunks>();
  }
  NIBBLE_TARGET static void run(const PackedRow& row, int64_t first, int64_t tiles, Use& use) {
    Decode decode(row);
    Groups<Decode> groups(row, first * kTileChunks, kPeriod, decode);
    Walk walk{decode, groups, use};
    for (int64_t t = first; t < first + tiles; ++t) {
      walk.tile(row.words + t * kTileWords, std::make_integer_sequence<int, kTileChunks>());
    }
  }
};

// All tokens of a chunk. No loop: GCC would keep the path's sums in memory.
template <class Sums, int kTokens>
struct Tokens : Sums {
  using Indexes = std::make_integer_sequence<int, kTokens>;

  template <int kChunk, class Weights, int... kToken>
  NIBBLE_TARGET void each(const Weights& weights, std::integer_sequence<int, kToken...>) {
    (Sums::template token<kChunk, kToken>(weights), ...);
  }
  template <int kChunk, class Weights>
  NIBBLE_TARGET void chunk(const Weights& weights) {
    each<kChunk>(weights, Indexes());
  }
  template <int... kToken>
  NIBBLE_TARGET void finish(float* out, std::integer_sequence<int, kToken...>) const {
    ((out[kToken] = Sums::template sum<kToken>()), ...);
  }
};

template <class Path, class Decode, int kPeriod, int kTokens>
NIBBLE_TARGET_ENTRY void multiply_row(const PackedRow& row, int64_t first, int64_t tiles,
                                      const float* x, float* sums) {
  using Use = Tokens<typename Path::template TokenSums<kTokens>, kTokens>;
  Use use{typename Path::template TokenSums<kTokens>(x)};
  Walk<Decode, kPeriod, Use>::run(row, first, tiles, use);
  use.finish(sums, typename Use::Indexes());
}

template <class Path, class Decode, int kPeriod>
NIBBLE_TARGET_ENTRY void expand_row(const PackedRow& row, int64_t first, int64_t tiles,
                                    float* out) {
  typename Path::Store use{out};
  Walk<Decode, kPeriod, typename Path::Store>::run(row, first, tiles, use);
}

struct RowKernels {
  MultiplyRow multiply[4];  // 1, 2, 4, 8 tokens
  ExpandRow expand;
};

template <class Path, class Decode, int kPeriod>
constexpr RowKernels row_kernels() {
  return {{multiply_row<Path, Decode, kPeriod, 1>, multiply_row<Path, Decode, kPeriod, 2>,
           multiply_row<Path, Decode, kPeriod, 4>, multiply_row<Path, Decode, kPeriod, 8>},
          expand_row<Path, Decode, kPeriod>};
}

template <class Path, class Decode>
RowKernels with_period(int period) {
  constexpr int kTileChunks = Rows<Decode::kCodeBits>::kTileChunks;
  if (period == kTileChunks) return row_kernels<Path, Decode, kTileChunks>();
  if constexpr (kTileChunks > 8) {
    if (period == 8) return row_kernels<Path, Decode, 8>();
  }
  if constexpr (kTileChunks > 4) {
    if (period == 4) return row_kernels<Path, Decode, 4>();
  }
  return period == 2 ? row_kernels<Path, Decode, 2>() : row_kernels<Path, Decode, 1>();
}

template <class Path>
RowKernels select_kernels(RowKind kind) {
  if (kind.decoder == Decoder::kInteger) {
    return with_period<Path, typename Path::IntegerDecode>(kind.period);
  }
  if (kind.decoder == Decoder::kGather) {
    return with_period<Path, typename Path::GatherDecode>(kind.period);
  }
  switch (kind.bits) {
    case 2:
      return with_period<Path, typename Path::template TableDecode<2>>(kind.period);
    case 3:
      return with_period<Path, typename Path::template TableDecode<3>>(kind.period);
    default:
      return with_period<Path, typename Path::template TableDecode<4>>(kind.period);
  }
}

template <class Path>
MultiplyRow select_multiply(RowKind kind, int tokens) {
  return select_kernels<Path>(kind).multiply[tokens == 1   ? 0
                                             : tokens == 2 ? 1
                                             : tokens == 4 ? 2
                                                           : 3];
}

template <class Path>
ExpandRow select_expand(RowKind kind) {
  return select_kernels<Path>(kind).expand;
}

}  // namespace
}  // namespace nibble
