// AddGram: the upper triangle of sum [K, K] += X'X, X [T, K] of 16-bit floats, sums in float: what
// calibration keeps of the inputs of linear layers (kernels/hessian.h).
//
// A block of 8 warps has a tile of 128 x 128, each warp 64 x 32 of it, and goes through 32 tokens
// at a time, kStages of them under way. Both operands of an mma want two tokens' values of one
// column in a register, where memory has two columns' values of one token: two words of
// neighbouring tokens become two such registers by two permutes. They are those of an even and of
// an odd column, so that row r of the 16 is column 2 r, or 2 (r - 8) + 1 from r = 8 on, and of two
// tiles of 8 columns one has the even and one the odd ones of 16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"

namespace nibble {

template <typename T>
struct AddGramArguments {
  int M = 0;             // tokens
  int K = 0;             // a multiple of 8
  const T* x = nullptr;  // [M, x_stride], rows at multiples of 16 bytes
  int64_t x_stride = 0;
  bool starts = false;   // sum = X'X: nothing is there yet
  float* sum = nullptr;  // [K, K]
};

// T: F16, BF16.
template <typename T>
struct AddGram {
  using Arguments = AddGramArguments<T>;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarpLanes;
  static constexpr int kBlocks = 1;
  static constexpr int kTile = 128;
  static constexpr int kTokens = 32;  // of a stage
  static constexpr int kStages = 4;
  // Bytes from token to token, so that the lanes of a load have banks of their own: four pairs of
  // tokens, eight neighbouring words each.
  static constexpr int kRow = 2 * kTile + 16;
  static constexpr int kSideBytes = kTokens * kRow;
  static constexpr int kSharedBytes = kStages * 2 * kSideBytes;
  static constexpr int kRowTiles = 4;     // of a warp, 16 columns of X each
  static constexpr int kColumnTiles = 2;  // likewise

  static int64_t tiles(const Arguments& a) { return (a.K + kTile - 1) / kTile; }
  static int64_t blocks(const Arguments& a) { return tiles(a) * (tiles(a) + 1) / 2; }

  // First columns of the two sides of a block's tile.
  struct Place {
    int row;
    int column;
  };
  template <typename Gpu>
  NIBBLE_DEVICE static Place place(const Gpu& gpu, const Arguments& a) {
    const int count = (a.K + kTile - 1) / kTile;
    int rest = gpu.block();
    int row = 0;
    for (; rest >= count - row; ++row) rest -= count - row;
    return {row * kTile, (row + rest) * kTile};
  }

  template <typename Gpu>
  NIBBLE_DEVICE static std::byte* stage(const Gpu& gpu, int unit) {
    return gpu.shared() + unit % kStages * (2 * kSideBytes);
  }

  // Sixteen bytes at a time of kTile columns of X from `first` on, zero beyond it.
  template <typename Gpu>
  NIBBLE_DEVICE static void copy_side(const Gpu& gpu, const Arguments& a, int token, int first,
                                      std::byte* side) {
    constexpr int kPieces = kTile / 8;
    NIBBLE_UNROLL
    for (int i = 0; i < kTokens * kPieces / kThreads; ++i) {
      const int row = (i * kThreads + gpu.thread()) / kPieces;
      const int piece = gpu.thread() % kPieces;
      const bool is_there = token + row < a.M && first + piece * 8 < a.K;
      const int64_t from = is_there ? (token + row) * a.x_stride + first + piece * 8 : int64_t{0};
      gpu.copy_async(side + row * kRow + piece * 16, a.x + from, is_there ? 16 : 0);
    }
  }
  template <typename Gpu>
  NIBBLE_DEVICE static void copy_unit(const Gpu& gpu, const Arguments& a, const Place& at,
                                      int unit) {
    std::byte* to = stage(gpu, unit);
    copy_side(gpu, a, unit * kTokens, at.row, to);
    copy_side(gpu, a, unit * kTokens, at.column, to + kSideBytes);
  }

  // Of 16 tokens and the 16 columns from `column` on: even and odd columns of the first eight
  // tokens, then of the others.
  template <typename Gpu>
  NIBBLE_DEVICE static void load_fragment(const Gpu& gpu, const std::byte* side, int token,
                                          int column, uint32_t (&fragment)[4]) {
    const int lane = gpu.thread() % kWarpLanes;
    NIBBLE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::byte* at =
          side + (token + 8 * half + lane % 4 * 2) * kRow + 2 * column + lane / 4 * 4;
      const uint32_t first = gpu.load_shared(reinterpret_cast<const uint32_t*>(at));
      const uint32_t second = gpu.load_shared(reinterpret_cast<const uint32_t*>(at + kRow));
      fragment[2 * half] = gpu.permute(first, second, 0x5410);
      fragment[2 * half + 1] = gpu.permute(first, second, 0x7632);
    }
  }

  using Sums = float[kRowTiles][2 * kColumnTiles][4];

  template <typename Gpu>
  NIBBLE_DEVICE static void multiply_unit(const Gpu& gpu, int unit, int warp_row, int warp_column,
                                          Sums& sums) {
    const std::byte* rows = stage(gpu, unit);
    NIBBLE_UNROLL
    for (int token = 0; token < kTokens; token += 16) {
      uint32_t b[kColumnTiles][4];
      NIBBLE_UNROLL
      for (int j = 0; j < kColumnTiles; ++j) {
        load_fragment(gpu, rows + kSideBytes, token, warp_column + 16 * j, b[j]);
      }
      NIBBLE_UNROLL
      for (int i = 0; i < kRowTiles; ++i) {
        uint32_t row[4];
        load_fragment(gpu, rows, token, warp_row + 16 * i, row);
        NIBBLE_UNROLL
        for (int j = 0; j < 2 * kColumnTiles; ++j) {
          const uint32_t column[2] = {b[j / 2][j % 2], b[j / 2][2 + j % 2]};
          gpu.mma(T{}, sums[i][j], row, column);
        }
      }
    }
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void add(const Gpu& gpu, const Arguments& a, int row, int column,
                                float value) {
    if (row > column || column >= a.K) return;
    float* sum = a.sum + static_cast<int64_t>(row) * a.K + column;
    gpu.store(sum, a.starts ? value : gpu.load_coherent(sum) + value);
  }

  // One barrier a unit is enough for the reason that token_tiles.h gives.
  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const Place at = place(gpu, a);
    const int units = (a.M + kTokens - 1) / kTokens;
    NIBBLE_UNROLL
    for (int unit = 0; unit < kStages - 1; ++unit) {
      if (unit < units) copy_unit(gpu, a, at, unit);
      gpu.commit_copies();
    }
    const int warp = gpu.thread() / kWarpLanes;
    const int warp_row = warp / 4 * (16 * kRowTiles);
    const int warp_column = warp % 4 * (16 * kColumnTiles);
    Sums sums{};
    for (int unit = 0; unit < units; ++unit) {
      gpu.wait_copies(Constant<kStages - 2>{});
      gpu.sync();
      if (unit + kStages - 1 < units) copy_unit(gpu, a, at, unit + kStages - 1);
      gpu.commit_copies();
      multiply_unit(gpu, unit, warp_row, warp_column, sums);
    }
    const int lane = gpu.thread() % kWarpLanes;
    NIBBLE_UNROLL
    for (int i = 0; i < kRowTiles; ++i) {
      NIBBLE_UNROLL
      for (int j = 0; j < 2 * kColumnTiles; ++j) {
        NIBBLE_UNROLL
        for (int r = 0; r < 4; ++r) {
          const int row = 16 * i + lane / 4 * 2 + r / 2;
          const int column = 16 * (j / 2) + 2 * (lane % 4 * 2 + r % 2) + j % 2;
          add(gpu, a, at.row + warp_row + row, at.column + warp_column + column, sums[i][j][r]);
        }
      }
    }
  }
};

}  // namespace nibble
