// DenseProduct: y = x W' + bias with weights of 16 bits as they are stored, sums in float.
//
// A block of 8 warps has a tile of 128 tokens and 128 rows of W, each warp 64 x 32 of it. A unit is
// 32 columns, 64 bytes of a row, of which a lane owns eight: one 16-byte load is its part of two
// mma, and any quarter of a warp reads 128 bytes in a row. kStages units are under way.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.h"

namespace nibble {

template <typename T, typename Output>
struct DenseArguments {
  int M = 0, N = 0, K = 0;
  const T* x = nullptr;  // [M, x_stride]; rows at multiples of 16 bytes
  int64_t x_stride = 0;
  const T* weights = nullptr;  // [N, weights_stride]; likewise
  int64_t weights_stride = 0;
  const T* bias = nullptr;  // [N] or nullptr
  Output* y = nullptr;      // [M, y_stride], the first N of each
  int64_t y_stride = 0;
};

// T: F16, BF16; Output: T or float.
template <typename T, typename Output>
struct DenseProduct {
  using Arguments = DenseArguments<T, Output>;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarpLanes;
  static constexpr int kBlocks = 2;
  static constexpr int kTokens = 128;
  static constexpr int kRows = 128;
  static constexpr int kUnitColumns = 32;
  static constexpr int kPieces = 4;  // of 16 bytes, of a row in a unit
  static constexpr int kStageSlots = (kTokens + kRows) * kPieces;
  static constexpr int kStages = 4;
  static constexpr int kSharedBytes = kStages * kStageSlots * 16;
  static constexpr int kTokenTiles = 4;  // of a warp, 16 tokens each
  static constexpr int kRowTiles = 4;    // 8 rows of W each

  static int64_t blocks(const Arguments& a) {
    return static_cast<int64_t>((a.M + kTokens - 1) / kTokens) * ((a.N + kRows - 1) / kRows);
  }

  template <typename Gpu>
  NIBBLE_DEVICE static Words4* stage(const Gpu& gpu, int unit) {
    return reinterpret_cast<Words4*>(gpu.shared()) + unit % kStages * kStageSlots;
  }

  // Sixteen bytes of a matrix [rows, K], zero beyond it.
  template <typename Gpu>
  NIBBLE_DEVICE static void copy_piece(const Gpu& gpu, Words4* to, const T* from, int64_t stride,
                                       int row, int rows, int column, int K) {
    const int bytes = row < rows ? (K - column) * 2 : 0;
    gpu.copy_async(to, from + (bytes > 0 ? row * stride + column : 0),
                   bytes >= 16 ? 16
                   : bytes > 0 ? bytes
                               : 0);
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void copy_unit(const Gpu& gpu, const Arguments& a, int token, int row,
                                      int unit) {
    constexpr int kRowsAtOnce = kThreads / kPieces;
    const int piece = gpu.thread() % kPieces;
    const int column = unit * kUnitColumns + piece * 8;
    Words4* to = stage(gpu, unit);
    NIBBLE_UNROLL
    for (int first = 0; first < kTokens; first += kRowsAtOnce) {
      const int i = first + gpu.thread() / kPieces;
      copy_piece(gpu, to + i * kPieces + piece, a.x, a.x_stride, token + i, a.M, column, a.K);
    }
    NIBBLE_UNROLL
    for (int first = 0; first < kRows; first += kRowsAtOnce) {
      const int i = first + gpu.thread() / kPieces;
      copy_piece(gpu, to + (kTokens + i) * kPieces + piece, a.weights, a.weights_stride, row + i,
                 a.N, column, a.K);
    }
  }

  using Sums = float[kTokenTiles][kRowTiles][4];

  // warp_token, warp_row: first of the warp in the tile.
  template <typename Gpu>
  NIBBLE_DEVICE static void multiply_unit(const Gpu& gpu, int unit, int warp_token, int warp_row,
                                          Sums& sums) {
    const int lane = gpu.thread() % kWarpLanes;
    const Words4* from = stage(gpu, unit) + lane % 4;
    Words4 rows[kRowTiles];
    NIBBLE_UNROLL
    for (int j = 0; j < kRowTiles; ++j) {
      rows[j] = gpu.load_shared(from + (kTokens + warp_row + 8 * j + lane / 4) * kPieces);
    }
    NIBBLE_UNROLL
    for (int i = 0; i < kTokenTiles; ++i) {
      const int token = warp_token + 16 * i + lane / 4;
      const Words4 low = gpu.load_shared(from + token * kPieces);
      const Words4 high = gpu.load_shared(from + (token + 8) * kPieces);
      NIBBLE_UNROLL
      for (int step = 0; step < 4; step += 2) {
        const uint32_t fragment[4] = {low.word[step], high.word[step], low.word[step + 1],
                                      high.word[step + 1]};
        NIBBLE_UNROLL
        for (int j = 0; j < kRowTiles; ++j) {
          const uint32_t b[2] = {rows[j].word[step], rows[j].word[step + 1]};
          gpu.mma(T{}, sums[i][j], fragment, b);
        }
      }
    }
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void store(const Gpu& gpu, const Arguments& a, int token, int row,
                                  float sum) {
    if (token >= a.M || row >= a.N) return;
    if (a.bias != nullptr) sum += gpu.to_float(gpu.load(a.bias + row));
    Output* y = a.y + token * a.y_stride + row;
    if constexpr (std::is_same_v<Output, float>) {
      gpu.store(y, sum);
    } else {
      gpu.store(y, gpu.round(Output{}, sum));
    }
  }

  // Blocks of the same rows of W are neighbours. One barrier a unit is enough for the reason that
  // token_tiles.h gives.
  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const int token_tiles = (a.M + kTokens - 1) / kTokens;
    const int token = gpu.block() % token_tiles * kTokens;
    const int row = gpu.block() / token_tiles * kRows;
    const int warp = gpu.thread() / kWarpLanes;
    const int warp_token = warp / 4 * (16 * kTokenTiles);
    const int warp_row = warp % 4 * (8 * kRowTiles);
    const int units = (a.K + kUnitColumns - 1) / kUnitColumns;
    NIBBLE_UNROLL
    for (int unit = 0; unit < kStages - 1; ++unit) {
      if (unit < units) copy_unit(gpu, a, token, row, unit);
      gpu.commit_copies();
    }
    Sums sums{};
    for (int unit = 0; unit < units; ++unit) {
      gpu.wait_copies(Constant<kStages - 2>{});
      gpu.sync();
      if (unit + kStages - 1 < units) copy_unit(gpu, a, token, row, unit + kStages - 1);
      gpu.commit_copies();
      multiply_unit(gpu, unit, warp_token, warp_row, sums);
    }
    const int lane = gpu.thread() % kWarpLanes;
    NIBBLE_UNROLL
    for (int i = 0; i < kTokenTiles * kRowTiles * 4; ++i) {
      const int r = i % 4;
      store(gpu, a, token + warp_token + i / (4 * kRowTiles) * 16 + r / 2 * 8 + lane / 4,
            row + warp_row + i / 4 % kRowTiles * 8 + lane % 4 * 2 + r % 2,
            sums[i / (4 * kRowTiles)][i / 4 % kRowTiles][r]);
    }
  }
};

}  // namespace nibble
