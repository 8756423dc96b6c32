// Launch plans and the division of the work among blocks.
#include "kernels/cuda/plan.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "formats/packing/packing.h"
#include "kernels/cuda/choice.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/stream_k.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

constexpr FragmentKind kKinds[] = {FragmentKind::kInt4, FragmentKind::kInt8, FragmentKind::kTable,
                                   FragmentKind::kInteger8, FragmentKind::kInteger4};

TEST(StreamK, BlocksTakeAllUnitsOnceInOrder) {
  for (const StreamK work : {StreamK{1, 1, 1}, StreamK{5, 7, 3}, StreamK{5, 7, 35},
                             StreamK{64, 32, 264}, StreamK{3, 100, 7}}) {
    ASSERT_EQ(work.begin(0), 0);
    ASSERT_EQ(work.begin(work.blocks), work.units());
    for (int64_t block = 0; block < work.blocks; ++block) {
      ASSERT_LT(work.begin(block), work.begin(block + 1));
      for (int64_t u = work.begin(block); u < work.begin(block + 1); ++u) {
        ASSERT_EQ(work.block_of(u), block);
      }
    }
  }
}

TEST(StreamK, SharesOfUnfinishedTilesHavePlacesOfTheirOwn) {
  for (const StreamK work : {StreamK{5, 7, 3}, StreamK{5, 7, 35}, StreamK{64, 32, 264},
                             StreamK{3, 100, 7}, StreamK{10, 4, 9}}) {
    std::set<int64_t> slots;
    for (int64_t tile = 0; tile < work.tiles; ++tile) {
      const int64_t first = work.first_block(tile);
      if (first == work.last_block(tile)) continue;
      for (int64_t block = first; block <= work.last_block(tile); ++block) {
        const int64_t slot = work.slot(block, tile, first);
        EXPECT_LT(slot, 2 * work.blocks);
        EXPECT_TRUE(slots.insert(slot).second) << tile << ", " << block;
      }
    }
  }
}

TEST(LinearPlan, CoversTheProductWithinTheDevice) {
  const std::vector<DeviceLimits> devices = {
      {},
      {.multiprocessors = 108, .shared_bytes = 164 << 10, .block_shared_bytes = 163 << 10},
      {.multiprocessors = 84, .shared_bytes = 100 << 10, .block_shared_bytes = 99 << 10}};
  for (const DeviceLimits& device : devices) {
    for (const FragmentKind kind : kKinds) {
      for (const int64_t M : {1, 8, 9, 16, 17, 33, 64, 100, 511}) {
        for (const int64_t N : {1, 64, 4096, 28672}) {
          const LinearShape problem = {kind, M, N, 8192, 128};
          const LinearPlan plan = plan_linear(problem, device);
          SCOPED_TRACE(to_string(problem, plan));
          EXPECT_GE(plan.work.blocks, 1);
          EXPECT_LE(plan.work.blocks, plan.work.units());
          EXPECT_LE(plan.work.blocks, 2 * device.multiprocessors);
          EXPECT_LE(plan.shared_bytes, device.block_shared_bytes);
          EXPECT_EQ(plan.work.tiles % divide_up(M, plan.choice.tokens), 0);
          EXPECT_EQ(plan, plan_linear(problem, device));
        }
      }
    }
  }
}

TEST(LinearPlan, GroupsSayWhenScalesAreApplied) {
  const auto tiles = [](FragmentKind kind, int64_t group) {
    return plan_linear({kind, 1, 4096, 4096, group}, {}).choice.scale_tiles;
  };
  EXPECT_EQ(tiles(FragmentKind::kInt4, 128), 4);
  EXPECT_EQ(tiles(FragmentKind::kInt4, 4096), 4);
  EXPECT_EQ(tiles(FragmentKind::kInt4, 64), 2);
  EXPECT_EQ(tiles(FragmentKind::kInt4, 96), 1);
  EXPECT_EQ(tiles(FragmentKind::kInt8, 128), 2);
  EXPECT_EQ(tiles(FragmentKind::kTable, 256), 2);
}

TEST(LinearPlan, TokensOfATile) {
  const auto tokens = [](FragmentKind kind, int64_t M) {
    return plan_linear({kind, M, 8192, 8192, 128}, {}).choice.tokens;
  };
  EXPECT_EQ(tokens(FragmentKind::kInt4, 8), 8);
  EXPECT_EQ(tokens(FragmentKind::kInt4, 16), 16);
  EXPECT_EQ(tokens(FragmentKind::kInt4, 17), 32);
  EXPECT_EQ(tokens(FragmentKind::kInt4, 64), 32);
  EXPECT_EQ(tokens(FragmentKind::kInt4, 511), 48);
  EXPECT_EQ(tokens(FragmentKind::kInteger8, 8), 8);
}

TEST(LinearPlan, ManyTokensMultiplySlabsOfWeightsOut) {
  for (const FragmentKind kind : kKinds) {
    const bool integers = kind == FragmentKind::kInteger8 || kind == FragmentKind::kInteger4;
    for (const int64_t M : {512, 2048, 100'000}) {
      EXPECT_EQ(plan_linear({kind, M, 8192, 8192, 128}, {}).slab_rows > 0, !integers) << M;
    }
    EXPECT_EQ(plan_linear({kind, 511, 8192, 8192, 128}, {}).slab_rows, 0);
  }
}

TEST(LinearPlan, SlabsAreWholeTilesEquallyLargeAndBounded) {
  for (const int64_t N : {1, 64, 65, 8192, 8193, 28672, 152064}) {
    for (const int64_t K : {1, 45, 4096, 8192, 28672}) {
      SCOPED_TRACE(std::to_string(N) + " x " + std::to_string(K));
      const int64_t rows = plan_linear({FragmentKind::kInt4, 1024, N, K, 128}, {}).slab_rows;
      EXPECT_EQ(rows % kPaddedRows, 0);
      EXPECT_LE(2 * rows * slab_stride(K), kMostSlabBytes);
      const int64_t slabs = divide_up(N, rows);
      EXPECT_LT(slabs * rows - N, slabs * kPaddedRows + 1);
      if (2 * N * slab_stride(K) <= kMostSlabBytes) {
        EXPECT_EQ(slabs, 1);
      }
    }
  }
  // Of more columns than the limit holds there is one tile.
  EXPECT_EQ(plan_linear({FragmentKind::kInt4, 512, 640, int64_t{1} << 21, 128}, {}).slab_rows, 64);
}

TEST(LinearPlan, ReadsAsOneLine) {
  const LinearShape problem = {FragmentKind::kInt4, 1, 4096, 4096, 128};
  EXPECT_EQ(
      to_string(problem, plan_linear(problem, {})),
      "int4 1x4096x4096 g128: tiles of 8 tokens, 264 blocks of 256 threads, 7.8 of 2048 units "
      "each, 48.0 KB shared, 1056.0 KB of partial sums");
  const LinearShape many = {FragmentKind::kInt4, 2048, 28672, 8192, 128};
  EXPECT_EQ(to_string(many, plan_linear(many, {})),
            "int4 2048x28672x8192 g128: 4 slabs of 7168 rows in 16 bits, 117.4 MB, dense products");
}

TEST(LinearPlan, RefusesWhatNoLaunchCanHold) {
  EXPECT_THROW(plan_linear({FragmentKind::kInt4, 0, 64, 64, 64}, {}), Error);
  constexpr int64_t kLarge = int64_t{1} << 22;
  EXPECT_THROW(plan_linear({FragmentKind::kInteger8, kLarge, kLarge, 8192, 128}, {}), Error);
}

}  // namespace
}  // namespace nibble
