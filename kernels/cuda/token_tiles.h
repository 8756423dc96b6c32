// TokenTiles: y = x W' for tiles of 8 to 48 rows of x; what is multiplied with what is a Product
// (float_product.h, integer_product.h).
//
// Floors for 8192 x 8192 in 4 bits: 34.6 MB (7.2 us at 4.8 TB/s) and 2 M N K FLOP (M = 64: 8.6
// GFLOP, 13.4 us at the 640 TFLOP/s that mma.sync reaches on an H100). Below M = 34 bytes bound it.
//
// A block of 4 warps has a tile of 256 rows; each warp has 64 of them and all tokens, so that a
// weight is read and converted once in the block. A unit is 128 bytes of a token; kStages of them
// are under way. The weights of a lane are copied by itself, as in few_tokens.h; x is shared by the
// warps, for which there is one barrier a unit. Tried: 64 tokens, whose 128 sums a thread leave too
// few registers.
#pragma once

#include <cstdint>

#include "kernels/cuda/arguments.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/stream_k.h"

namespace nibble {

// A Product has
//   Arguments, Layout    LinearArguments<...>, the packing of the weights
//   Sum                  float or int32_t
//   Parameters           of the eight rows of a lane in a tile of columns: parameters(gpu, a, first
//                        row of the tile, first column); loaded one unit ahead
//   Rows                 those of rows g and g + 8 of fragment j, as its operands need them:
//                        rows(gpu, a, Parameters, first row, first column, j)
//   fragment(gpu, a, vectors, step, j, Rows, a[4])
//   mma(gpu, sums, a, b)
//   store(gpu, a, m, n, sum)
template <typename ProductType, int kTileTokens>
struct TokenTiles {
  using Product = ProductType;
  using Arguments = typename Product::Arguments;
  using Layout = typename Product::Layout;
  using Sum = typename Product::Sum;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarpLanes;
  static constexpr int kBlocks = 2;  // on a multiprocessor at once
  static constexpr int kRows = kWarps * Layout::kTileRows;
  static constexpr int kTokens = kTileTokens;
  static constexpr int kTokenBlocks = kTokens / 8;
  static constexpr int kUnitTiles = 2;
  static constexpr int kUnitColumns = kUnitTiles * Layout::kTileColumns;
  static constexpr int kTileElements = kRows * kTokens;
  static constexpr int kUnitVectors = kUnitTiles * Layout::kVectors;
  static constexpr int kPieces = 8;  // of 16 bytes, of a token in a unit
  static constexpr int kPieceColumns = kUnitColumns / kPieces;
  static_assert(kPieceColumns * sizeof(typename Arguments::Input) == 16);

  // A stage: [warp][vector][lane] of weights, then [token][piece] of x.
  static constexpr int kWeightSlots = kWarps * kUnitVectors * kWarpLanes;
  static constexpr int kInputSlots = kTokens * kPieces;
  static constexpr int kStageSlots = kWeightSlots + kInputSlots;
  // What two blocks of an H100, or one of an sm_86 or sm_89, have room for.
  static constexpr int kFitting = (72 << 10) / (kStageSlots * 16);
  static constexpr int kStages = kFitting < 2 ? 2 : kFitting > 4 ? 4 : kFitting;
  static constexpr int kSharedBytes = kStages * kStageSlots * 16 + 16;

  // [token block][fragment][as mma has them]
  using Sums = Sum[kTokenBlocks][4][4];

  struct Tile {
    int row;    // first row of the warp
    int token;  // first token
  };

  // A quarter of a warp reads four neighbouring pieces of two tokens: odd tokens have the halves of
  // their 128 bytes exchanged, so that these are eight different sixteenths of the banks.
  NIBBLE_DEVICE static int input_slot(int token, int piece) {
    return kWeightSlots + token * kPieces + (piece ^ token % 2 * 4);
  }
  NIBBLE_DEVICE static int weight_slot(int warp, int vector, int lane) {
    return (warp * kUnitVectors + vector) * kWarpLanes + lane;
  }
  template <typename Gpu>
  NIBBLE_DEVICE static Words4* stage(const Gpu& gpu, int unit) {
    return reinterpret_cast<Words4*>(gpu.shared()) + unit % kStages * kStageSlots;
  }
  NIBBLE_DEVICE static int column(int unit, int i) {
    return (unit * kUnitTiles + i) * Layout::kTileColumns;
  }
  NIBBLE_DEVICE static bool has_rows(const Arguments& a, const Tile& tile) {
    return tile.row < a.parameters.padded_rows;
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void copy_unit(const Gpu& gpu, const Arguments& a, const Tile& tile,
                                      int unit) {
    const int lane = gpu.thread() % kWarpLanes;
    const int warp = gpu.thread() / kWarpLanes;
    Words4* to = stage(gpu, unit);
    if (has_rows(a, tile)) {
      const int64_t strip = tile.row / Layout::kTileRows;
      const int64_t first = strip * (a.padded_columns / Layout::kTileColumns) + unit * kUnitTiles;
      const Words4* weights = a.weights + first * (Layout::kVectors * kWarpLanes) + lane;
      NIBBLE_UNROLL
      for (int v = 0; v < kUnitVectors; ++v) {
        gpu.copy_async(to + weight_slot(warp, v, lane), weights + v * kWarpLanes, 16);
      }
    }
    NIBBLE_UNROLL
    for (int slot = 0; slot < kInputSlots; slot += kThreads) {
      if (kInputSlots - slot < kThreads && gpu.thread() >= kInputSlots - slot) break;
      const int token = (slot + gpu.thread()) / kPieces;
      const int piece = gpu.thread() % kPieces;
      copy_input(gpu, a, to + input_slot(token, piece), tile.token + token,
                 unit * kUnitColumns + piece * kPieceColumns);
    }
  }

  // Adds tile i of the unit.
  template <typename Gpu>
  NIBBLE_DEVICE static void multiply_columns(const Gpu& gpu, const Arguments& a, const Tile& tile,
                                             int unit, int i,
                                             const typename Product::Parameters& parameters,
                                             Sums& sums) {
    const int lane = gpu.thread() % kWarpLanes;
    const int warp = gpu.thread() / kWarpLanes;
    const Words4* from = stage(gpu, unit);
    Words4 weights[Layout::kVectors];
    NIBBLE_UNROLL
    for (int v = 0; v < Layout::kVectors; ++v) {
      weights[v] = gpu.load_shared(from + weight_slot(warp, i * Layout::kVectors + v, lane));
    }
    Words4 x[kTokenBlocks];
    NIBBLE_UNROLL
    for (int block = 0; block < kTokenBlocks; ++block) {
      x[block] = gpu.load_shared(from + input_slot(block * 8 + lane / 4, i * 4 + lane % 4));
    }
    NIBBLE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const auto rows = Product::rows(gpu, a, parameters, tile.row, column(unit, i), j);
      NIBBLE_UNROLL
      for (int step = 0; step < Layout::kSteps; ++step) {
        uint32_t fragment[4];
        Product::fragment(gpu, a, weights, step, j, rows, fragment);
        NIBBLE_UNROLL
        for (int block = 0; block < kTokenBlocks; ++block) {
          const uint32_t b[2] = {x[block].word[2 * step], x[block].word[2 * step + 1]};
          Product::mma(gpu, sums[block][j], fragment, b);
        }
      }
    }
  }

  // Units [first, last) of the tile. Waiting until all but kStages - 2 commits have arrived, the
  // barrier after it, and only then the copy into the stage that was used last, make one barrier
  // a unit enough.
  template <typename Gpu>
  NIBBLE_DEVICE static void multiply_units(const Gpu& gpu, const Arguments& a, const Tile& tile,
                                           int first, int last, Sums& sums) {
    gpu.sync();  // what the tile before left in shared memory was read
    NIBBLE_UNROLL
    for (int i = 0; i < kStages - 1; ++i) {
      if (first + i < last) copy_unit(gpu, a, tile, first + i);
      gpu.commit_copies();
    }
    typename Product::Parameters parameters[kUnitTiles]{};
    NIBBLE_UNROLL
    for (int i = 0; i < kUnitTiles; ++i) {
      if (has_rows(a, tile)) {
        parameters[i] = Product::parameters(gpu, a, tile.row, column(first, i));
      }
    }
    for (int unit = first; unit < last; ++unit) {
      gpu.wait_copies(Constant<kStages - 2>{});
      gpu.sync();
      if (unit + kStages - 1 < last) copy_unit(gpu, a, tile, unit + kStages - 1);
      gpu.commit_copies();
      if (!has_rows(a, tile)) continue;
      NIBBLE_UNROLL
      for (int i = 0; i < kUnitTiles; ++i) {
        multiply_columns(gpu, a, tile, unit, i, parameters[i], sums);
        if (unit + 1 < last) {
          parameters[i] = Product::parameters(gpu, a, tile.row, column(unit + 1, i));
        }
      }
    }
    gpu.wait_copies(Constant<0>{});
  }

  // store(token, row, sum) for every sum of the lane; eight lanes have neighbouring rows.
  template <typename Gpu, typename Store>
  NIBBLE_DEVICE static void for_sums(const Gpu& gpu, const Sums& sums, const Store& store) {
    const int lane = gpu.thread() % kWarpLanes;
    const int warp = gpu.thread() / kWarpLanes;
    NIBBLE_UNROLL
    for (int i = 0; i < kTokenBlocks * 16; ++i) {
      const int j = i / 4 % 4, r = i % 4;
      store(i / 16 * 8 + lane % 4 * 2 + r % 2, warp * 64 + 16 * j + r / 2 * 8 + lane / 4,
            sums[i / 16][j][r]);
    }
  }

  // Units [first, last) of a tile; tiles are numbered along the rows of W first.
  template <typename Gpu>
  NIBBLE_DEVICE static void multiply_tile(const Gpu& gpu, const Arguments& a, int index, int first,
                                          int last) {
    const int row_tiles = (a.N + kRows - 1) / kRows;
    const int first_row = index % row_tiles * kRows;
    const int first_token = index / row_tiles * kTokens;
    Sums sums{};
    multiply_units(gpu, a, {first_row + gpu.thread() / kWarpLanes * 64, first_token}, first, last,
                   sums);
    if (last - first == a.work.units_per_tile) {
      for_sums(gpu, sums, [&](int token, int row, Sum sum) {
        Product::store(gpu, a, first_token + token, first_row + row, sum);
      });
      return;
    }
    const int64_t first_block = a.work.first_block(index);
    const int64_t last_block = a.work.last_block(index);
    const auto share = [&](int64_t block) {
      return static_cast<Sum*>(a.partial) + a.work.slot(block, index, first_block) * kTileElements;
    };
    Sum* own = share(gpu.block());
    for_sums(gpu, sums,
             [&](int token, int row, Sum sum) { gpu.store(own + token * kRows + row, sum); });
    auto* flag = reinterpret_cast<uint32_t*>(gpu.shared() + kSharedBytes - 16);
    if (!arrives_last(gpu, a.counters + index, last_block - first_block + 1, flag)) return;
    for (int e = gpu.thread(); e < kTileElements; e += kThreads) {
      Sum sum = 0;
      for (int64_t block = first_block; block <= last_block; ++block) {
        sum += gpu.load_coherent(share(block) + e);
      }
      Product::store(gpu, a, first_token + e / kRows, first_row + e % kRows, sum);
    }
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    for_tiles_of_block(gpu, a.work, [&](int tile, int first, int last) {
      multiply_tile(gpu, a, tile, first, last);
    });
  }
};

}  // namespace nibble
