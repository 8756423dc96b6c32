// Launch plans and the division of the work among blocks.
#include "kernels/cuda/plan.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
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
      for (const int64_t M : {1, 8, 9, 16, 17, 33, 64, 100, 2048}) {
        for (const int64_t N : {1, 64, 4096, 28672}) {
          const LinearProblem problem = {kind, M, N, 8192, 128};
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
  EXPECT_EQ(tokens(FragmentKind::kInt4, 2048), 48);
  EXPECT_EQ(tokens(FragmentKind::kInteger8, 8), 8);
}

TEST(LinearPlan, ReadsAsOneLine) {
  const LinearProblem problem = {FragmentKind::kInt4, 1, 4096, 4096, 128};
  EXPECT_EQ(
      to_string(problem, plan_linear(problem, {})),
      "int4 1x4096x4096 g128: tiles of 8 tokens, 264 blocks of 256 threads, 7.8 of 2048 units "
      "each, 48.0 KB shared, 1056.0 KB of partial sums");
}

TEST(LinearPlan, RefusesWhatNoLaunchCanHold) {
  EXPECT_THROW(plan_linear({FragmentKind::kInt4, 0, 64, 64, 64}, {}), Error);
  constexpr int64_t kLarge = int64_t{1} << 22;
  EXPECT_THROW(plan_linear({FragmentKind::kInt4, kLarge, kLarge, 8192, 128}, {}), Error);
}

}  // namespace
}  // namespace nibble
