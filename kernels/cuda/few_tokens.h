// few_tokens: y = x W' for up to 8 (kTokenBlocks = 1) or 16 rows of x, weights of 4 or 8 bits.
//
// Bound by the bytes of the weights: N K bits / 8 plus the scales, 34.6 MB for 8192 x 8192 in 4
// bits with groups of 128, 7.2 us at 4.8 TB/s. Every weight is read once, by one lane, which copies
// the 16-byte vectors that it alone will read into shared memory and waits for nobody but itself: a
// warp has a unit (4 KB) under way at any time without a register for it, 16 warps 64 KB on a
// multiprocessor. Tensor cores multiply, with the weights as the 16-row operand and the tokens as
// the 8 columns: one mma for 256 weights costs less than the conversions that multiply-adds of
// single weights would need. Scales are applied to the sums of a group, in float, so that weights
// stay exact integers; zero points to the sums of x, which one more mma gives.
//
// A block of 8 warps has a tile of 64 rows; its warps take turns along K and are summed through
// shared memory. Blocks share tiles as stream_k.h says.
#pragma once

#include <cstdint>

#include "kernels/cuda/arguments.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/parameters.h"
#include "kernels/cuda/stream_k.h"

namespace nibble {

// Weights: weights.h. T: F16, BF16. kScaleTiles: tiles of 32 columns that surely share their
// parameters: 1, 2 or, at most, those of a unit.
template <typename Weights, typename T, int kTokenBlocks, int kScaleTiles>
struct FewTokens {
  using Arguments = LinearArguments<T>;
  using Layout = typename Weights::Layout;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarpLanes;
  // On a multiprocessor at once; the sums of 16 tokens leave registers for one.
  static constexpr int kBlocks = kTokenBlocks == 1 ? 2 : 1;
  static constexpr int kRows = Layout::kTileRows;
  static constexpr int kTokens = 8 * kTokenBlocks;
  static constexpr int kUnitTiles = 16 / Layout::kBits;  // 4 KB of weights for a warp
  static constexpr int kUnitColumns = kUnitTiles * Layout::kTileColumns;
  static constexpr int kTileElements = kTokens * kRows;
  // Rows of sums in shared memory, padded so that a warp's stores hit all banks.
  static constexpr int kSumStride = kRows + 4;
  static constexpr int kSlots = Layout::kVectors + kTokenBlocks;
  static constexpr int kCopyBytes = kWarps * kUnitTiles * kSlots * kWarpLanes * 16;
  static constexpr int kSumBytes = 4 * kWarps * kTokens * kSumStride;
  static constexpr int kSharedBytes = (kCopyBytes > kSumBytes ? kCopyBytes : kSumBytes) + 16;
  static_assert(kUnitTiles % kScaleTiles == 0);

  // [token block][fragment][as mma has them]
  using Sums = float[kTokenBlocks][4][4];
  using Parameters = RawParameters[kUnitTiles / kScaleTiles];

  // The lane's vector v of tile i of its unit in shared memory: those of the weights, then one of x
  // for each token block.
  template <typename Gpu>
  NIBBLE_DEVICE static Words4* slot(const Gpu& gpu, int i, int v) {
    const int warp = gpu.thread() / kWarpLanes;
    const int index = (warp * kUnitTiles + i) * kSlots + v;
    return reinterpret_cast<Words4*>(gpu.shared()) + index * kWarpLanes + gpu.thread() % kWarpLanes;
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void copy_tile(const Gpu& gpu, const Arguments& a, int row_tile, int unit,
                                      int i) {
    const int lane = gpu.thread() % kWarpLanes;
    const int column_tile = unit * kUnitTiles + i;
    const int64_t first =
        static_cast<int64_t>(row_tile) * (a.padded_columns / Layout::kTileColumns) + column_tile;
    const Words4* weights = a.weights + first * (Layout::kVectors * kWarpLanes) + lane;
    NIBBLE_UNROLL
    for (int v = 0; v < Layout::kVectors; ++v) {
      gpu.copy_async(slot(gpu, i, v), weights + v * kWarpLanes, 16);
    }
    const int column = column_tile * Layout::kTileColumns + lane % 4 * 8;
    NIBBLE_UNROLL
    for (int block = 0; block < kTokenBlocks; ++block) {
      copy_input(gpu, a, slot(gpu, i, Layout::kVectors + block), block * 8 + lane / 4, column);
    }
  }

  // Which group of parameters a part of a unit has.
  NIBBLE_DEVICE static int group_of(const Arguments& a, int unit, int part) {
    return (unit * kUnitTiles + part * kScaleTiles) * Layout::kTileColumns / a.parameters.group;
  }

  // The products of tile i of the unit, before scales.
  template <typename Gpu>
  NIBBLE_DEVICE static void multiply_columns(const Gpu& gpu, const Arguments& a, int i, Sums& sums,
                                             float (&x_sums)[kTokenBlocks][4]) {
    Words4 weights[Layout::kVectors];
    Words4 x[kTokenBlocks];
    NIBBLE_UNROLL
    for (int v = 0; v < Layout::kVectors; ++v) weights[v] = gpu.load_shared(slot(gpu, i, v));
    NIBBLE_UNROLL
    for (int block = 0; block < kTokenBlocks; ++block) {
      x[block] = gpu.load_shared(slot(gpu, i, Layout::kVectors + block));
    }
    NIBBLE_UNROLL
    for (int step = 0; step < Layout::kSteps; ++step) {
      uint32_t b[kTokenBlocks][2];
      NIBBLE_UNROLL
      for (int block = 0; block < kTokenBlocks; ++block) {
        b[block][0] = x[block].word[2 * step];
        b[block][1] = x[block].word[2 * step + 1];
      }
      NIBBLE_UNROLL
      for (int j = 0; j < 4; ++j) {
        uint32_t fragment[4];
        Weights::fragment(gpu, T{}, weights, step, j, a.levels, fragment);
        NIBBLE_UNROLL
        for (int block = 0; block < kTokenBlocks; ++block) {
          gpu.mma(T{}, sums[block][j], fragment, b[block]);
        }
      }
      if (Weights::kHasZeros && a.parameters.zero != nullptr) {
        const uint32_t one = gpu.round2(T{}, 1.F, 1.F);
        const uint32_t ones[4] = {one, one, one, one};
        NIBBLE_UNROLL
        for (int block = 0; block < kTokenBlocks; ++block) {
          gpu.mma(T{}, x_sums[block], ones, b[block]);
        }
      }
    }
  }

  // Products of a group onto the sums, scaled.
  template <typename Gpu>
  NIBBLE_DEVICE static void add_group(const Gpu& gpu, const Arguments& a, int row_tile, int group,
                                      const RawParameters& parameters, const Sums& products,
                                      const float (&x_sums)[kTokenBlocks][4], Sums& sums) {
    float scale[8];
    NIBBLE_UNROLL
    for (int row = 0; row < 8; ++row) {
      scale[row] = scale_of(gpu, a.parameters, parameters, row_tile * kRows, group, row);
    }
    NIBBLE_UNROLL
    for (int block = 0; block < kTokenBlocks; ++block) {
      NIBBLE_UNROLL
      for (int i = 0; i < 16; ++i) {
        const int row = i / 2;
        const int j = i / 4, r = i % 4;
        float sum = products[block][j][r];
        if (Weights::kHasZeros) sum = gpu.fma(-zero_point(parameters, row), x_sums[block][r], sum);
        sums[block][j][r] = gpu.fma(scale[row], sum, sums[block][j][r]);
      }
    }
  }

  // Adds the unit's share and, as soon as a part of it is used, copies that of the warp's next unit
  // (if below `last`) to its place. Every tile is one commit.
  template <typename Gpu>
  NIBBLE_DEVICE static void multiply_unit(const Gpu& gpu, const Arguments& a, int row_tile,
                                          int unit, int last, Parameters& parameters, Sums& sums) {
    const int next = unit + kWarps;
    NIBBLE_UNROLL
    for (int part = 0; part < kUnitTiles / kScaleTiles; ++part) {
      Sums products{};
      float x_sums[kTokenBlocks][4]{};
      NIBBLE_UNROLL
      for (int i = part * kScaleTiles; i < (part + 1) * kScaleTiles; ++i) {
        gpu.wait_copies(Constant<kUnitTiles - 1>{});
        multiply_columns(gpu, a, i, products, x_sums);
        if (next < last) copy_tile(gpu, a, row_tile, next, i);
        gpu.commit_copies();
      }
      add_group(gpu, a, row_tile, group_of(a, unit, part), parameters[part], products, x_sums,
                sums);
      if (next < last) {
        parameters[part] =
            load_parameters(gpu, a.parameters, row_tile * kRows, group_of(a, next, part));
      }
    }
  }

  // Element e of the tile, of this block: the warps' sums in order.
  template <typename Gpu>
  NIBBLE_DEVICE static float sum_of_warps(const Gpu& gpu, const float* shared, int e) {
    float sum = 0.F;
    for (int warp = 0; warp < kWarps; ++warp) {
      sum += gpu.load_shared(shared + (warp * kTokens + e / kRows) * kSumStride + e % kRows);
    }
    return sum;
  }

  // The sums of all warps to y, or to the other blocks that share the tile.
  template <typename Gpu>
  NIBBLE_DEVICE static void finish_tile(const Gpu& gpu, const Arguments& a, int tile,
                                        const Sums& sums) {
    auto* shared = reinterpret_cast<float*>(gpu.shared());
    auto* flag = reinterpret_cast<uint32_t*>(gpu.shared() + kSharedBytes - 16);
    const int lane = gpu.thread() % kWarpLanes;
    const int warp = gpu.thread() / kWarpLanes;
    gpu.sync();
    NIBBLE_UNROLL
    for (int block = 0; block < kTokenBlocks; ++block) {
      NIBBLE_UNROLL
      for (int j = 0; j < 4; ++j) {
        NIBBLE_UNROLL
        for (int r = 0; r < 4; ++r) {
          const int token = block * 8 + lane % 4 * 2 + r % 2;
          const int row = 16 * j + r / 2 * 8 + lane / 4;
          gpu.store_shared(shared + (warp * kTokens + token) * kSumStride + row, sums[block][j][r]);
        }
      }
    }
    gpu.sync();
    const int64_t first = a.work.first_block(tile);
    const int64_t last = a.work.last_block(tile);
    const auto share = [&](int64_t block) {
      return static_cast<float*>(a.partial) + a.work.slot(block, tile, first) * kTileElements;
    };
    float* own = share(gpu.block());
    for (int e = gpu.thread(); e < kTileElements; e += kThreads) {
      const float sum = sum_of_warps(gpu, shared, e);
      if (first == last) {
        store_output(gpu, a, e / kRows, tile * kRows + e % kRows, sum);
      } else {
        gpu.store(own + e, sum);
      }
    }
    if (first == last || !arrives_last(gpu, a.counters + tile, last - first + 1, flag)) return;
    for (int e = gpu.thread(); e < kTileElements; e += kThreads) {
      float sum = 0.F;
      for (int64_t block = first; block <= last; ++block) {
        sum += gpu.load_coherent(share(block) + e);
      }
      store_output(gpu, a, e / kRows, tile * kRows + e % kRows, sum);
    }
  }

  // Units [first, last) of a tile of rows.
  template <typename Gpu>
  NIBBLE_DEVICE static void multiply_tile(const Gpu& gpu, const Arguments& a, int row_tile,
                                          int first, int last) {
    Sums sums{};
    int unit = first + gpu.thread() / kWarpLanes;
    if (unit < last) {
      NIBBLE_UNROLL
      for (int i = 0; i < kUnitTiles; ++i) {
        copy_tile(gpu, a, row_tile, unit, i);
        gpu.commit_copies();
      }
      Parameters parameters;
      NIBBLE_UNROLL
      for (int part = 0; part < kUnitTiles / kScaleTiles; ++part) {
        parameters[part] =
            load_parameters(gpu, a.parameters, row_tile * kRows, group_of(a, unit, part));
      }
      for (; unit < last; unit += kWarps) {
        multiply_unit(gpu, a, row_tile, unit, last, parameters, sums);
      }
    }
    finish_tile(gpu, a, row_tile, sums);
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    for_tiles_of_block(gpu, a.work, [&](int tile, int first, int last) {
      multiply_tile(gpu, a, tile, first, last);
    });
  }
};

}  // namespace nibble
