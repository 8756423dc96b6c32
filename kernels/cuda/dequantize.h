// dequantize: a packed layer's weights in 16 bits, those of dequantize() rounded once. Bound by the
// 2 N K bytes it writes: 134 MB for 8192 x 8192, 28 us at 4.8 TB/s. For products of so many tokens
// that dense ones are faster.
//
// A warp has a tile; a lane's eight columns of a row are one 16-byte store.
#pragma once

#include <cstdint>
#include <type_traits>

#include "formats/packing/packing.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/parameters.h"
#include "kernels/cuda/weights.h"

namespace nibble {

// Weights: weights.h. T: F16, BF16.
template <typename Weights, typename T>
struct Dequantize {
  using Layout = typename Weights::Layout;
  static constexpr int kThreads = 256;
  static constexpr int kBlocks = 4;  // on a multiprocessor at once
  static constexpr int kWarps = kThreads / kWarpLanes;
  static constexpr int kSharedBytes = 0;

  struct Arguments {
    int first_row = 0;  // of `out`, a multiple of the tile's
    int N = 0, K = 0;   // rows [first_row, N)
    const Words4* weights = nullptr;
    int padded_columns = 0;
    LayerParameters parameters;
    const float* levels = nullptr;  // [16] of a table
    T* out = nullptr;               // [N - first_row, out_stride], a multiple of 8; 16-byte aligned
    int64_t out_stride = 0;         // columns beyond K are left alone
  };

  static constexpr int64_t tiles(int64_t rows, int64_t padded_columns) {
    return divide_up(rows, Layout::kTileRows) * (padded_columns / Layout::kTileColumns);
  }

  // Code of row g + 8 i, column c of the lane, out of its vectors: the slice of lane 0's.
  NIBBLE_DEVICE static uint32_t code(const Words4* vectors, int i, int c) {
    const BitSlice slice = Layout::tile(8 * i, c);
    return vectors[slice.word / 128].word[slice.word % 4] >> slice.shift &
           ((1U << Layout::kBits) - 1);
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void store_row(const Gpu& gpu, const Arguments& a, int n, int k,
                                      const uint32_t (&words)[4]) {
    if (n >= a.N || k >= a.K) return;
    T* out = a.out + (n - a.first_row) * a.out_stride + k;
    if (k + 8 <= a.K) {
      gpu.store(reinterpret_cast<Words4*>(out), Words4{words[0], words[1], words[2], words[3]});
      return;
    }
    NIBBLE_UNROLL
    for (int c = 0; c < 8; ++c) {
      const auto bits = static_cast<uint16_t>(words[c / 2] >> 16 * (c % 2));
      if (k + c < a.K) gpu.store(out + c, T{bits});
    }
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const int column_tiles = a.padded_columns / Layout::kTileColumns;
    const int tile = a.first_row / Layout::kTileRows * column_tiles + gpu.block() * kWarps +
                     gpu.thread() / kWarpLanes;
    const int row = tile / column_tiles * Layout::kTileRows;
    const int column = tile % column_tiles * Layout::kTileColumns;
    if (row >= a.N) return;
    const int lane = gpu.thread() % kWarpLanes;
    Words4 vectors[Layout::kVectors];
    NIBBLE_UNROLL
    for (int v = 0; v < Layout::kVectors; ++v) {
      vectors[v] = gpu.load_once(
          a.weights + (static_cast<int64_t>(tile) * Layout::kVectors + v) * kWarpLanes + lane);
    }
    const int group = column / a.parameters.group;
    const RawParameters raw = load_parameters(gpu, a.parameters, row, group);
    NIBBLE_UNROLL
    for (int i = 0; i < 8; ++i) {
      const float scale = scale_of(gpu, a.parameters, raw, row, group, i);
      const auto value = [&](int c) {
        const uint32_t stored = code(vectors, i, c);
        if constexpr (std::is_same_v<Weights, TableWeights>) {
          return gpu.load(a.levels + stored) * scale;
        } else {
          const float level = static_cast<float>(static_cast<int>(stored) - Weights::kCentre);
          return (level - zero_point(raw, i)) * scale;
        }
      };
      uint32_t words[4];
      NIBBLE_UNROLL
      for (int c = 0; c < 8; c += 2) words[c / 2] = gpu.round2(T{}, value(c), value(c + 1));
      store_row(gpu, a, row + lane / 4 + 8 * i, column + lane % 4 * 8, words);
    }
  }
};

}  // namespace nibble
