// The block executor: what it computes, and what it catches.
#include "tests/kernels/cuda/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"

namespace nibble {
namespace {

using Access = GlobalMemory::Access;
using ::testing::HasSubstr;

constexpr size_t kShared = 1024;

// Two warps.
std::string run(GlobalMemory& memory, const std::function<void(const Lane&)>& kernel,
                int blocks = 1) {
  return execute({blocks, 64, kShared}, memory, kernel);
}
std::string run(const std::function<void(const Lane&)>& kernel) {
  GlobalMemory memory;
  return run(memory, kernel);
}

uint32_t* shared_word(const Lane& lane, int i) {
  return reinterpret_cast<uint32_t*>(lane.shared()) + i;
}

TEST(Executor, ABarrierOrdersAccesses) {
  GlobalMemory memory;
  auto* out = memory.allocate<uint32_t>(64, Access::kOutput);
  EXPECT_EQ(run(memory,
                [&](const Lane& lane) {
                  const int i = lane.thread();
                  lane.store_shared(shared_word(lane, i), static_cast<uint32_t>(i));
                  lane.sync();
                  lane.store(out + i, lane.load_shared(shared_word(lane, 63 - i)));
                }),
            "");
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(out[i], 63 - i);
}

TEST(Executor, AMissingBarrierIsARace) {
  EXPECT_THAT(run([](const Lane& lane) {
                lane.store_shared(shared_word(lane, lane.thread()), 1U);
                lane.load_shared(shared_word(lane, lane.thread() ^ 32));
              }),
              HasSubstr("which nobody wrote"));  // the first to read comes too early
  EXPECT_THAT(run([](const Lane& lane) {
                if (lane.thread() < 32) lane.store_shared(shared_word(lane, lane.thread()), 1U);
                if (lane.thread() >= 32) lane.load_shared(shared_word(lane, lane.thread() - 32));
              }),
              HasSubstr("without a barrier between"));
  EXPECT_THAT(run([](const Lane& lane) {
                lane.store_shared(shared_word(lane, lane.thread()), 1U);
                lane.sync();
                lane.load_shared(shared_word(lane, lane.thread()));
                lane.store_shared(shared_word(lane, lane.thread() ^ 33), 2U);
              }),
              HasSubstr("without a barrier between"));
}

TEST(Executor, AWarpsBarrierOrdersTheWarpOnly) {
  const auto exchange = [](int distance) {
    return run([distance](const Lane& lane) {
      lane.store_shared(shared_word(lane, lane.thread()), 1U);
      lane.sync_warp();
      lane.load_shared(shared_word(lane, (lane.thread() + 64 - distance) % 64));
    });
  };
  EXPECT_THAT(run([](const Lane& lane) {
                lane.store_shared(shared_word(lane, lane.thread()), 1U);
                lane.sync_warp();
                lane.load_shared(shared_word(lane, lane.thread() ^ 1));
              }),
              "");
  EXPECT_NE(exchange(32), "");
}

TEST(Executor, BoundsAndAlignment) {
  GlobalMemory memory;
  const std::vector<uint32_t> values(8, 1);
  const uint32_t* in = memory.input(std::span<const uint32_t>(values));
  EXPECT_THAT(run(memory, [&](const Lane& lane) { lane.load(in + lane.thread()); }),
              HasSubstr("thread 8: reads outside"));
  EXPECT_THAT(run(memory,
                  [&](const Lane& lane) {
                    lane.load(reinterpret_cast<const Words4*>(in + lane.thread() % 2));
                  }),
              HasSubstr("thread 1: address is no multiple of 16"));
  EXPECT_THAT(run(memory, [&](const Lane& lane) { lane.store(const_cast<uint32_t*>(in), 1U); }),
              HasSubstr("writes to an input"));
  EXPECT_THAT(run([](const Lane& lane) { lane.store_shared(shared_word(lane, 256), 1U); }),
              HasSubstr("outside its shared memory"));
}

TEST(Executor, NobodyReadsWhatNobodyWrote) {
  GlobalMemory memory;
  auto* out = memory.allocate<uint32_t>(64, Access::kOutput);
  EXPECT_THAT(run(memory, [&](const Lane& lane) { lane.load(out + lane.thread()); }),
              HasSubstr("which nobody wrote"));
  EXPECT_THAT(run([](const Lane& lane) { lane.load_shared(shared_word(lane, 0)); }),
              HasSubstr("which nobody wrote"));
  EXPECT_THAT(run(memory,
                  [&](const Lane& lane) {
                    if (lane.thread() < 63) lane.store(out + lane.thread(), 1U);
                  }),
              HasSubstr("was not written"));
}

TEST(Executor, CopiesArriveWhenTheyAreWaitedFor) {
  GlobalMemory memory;
  const std::vector<uint32_t> values = {1, 2, 3, 4};
  const uint32_t* in = memory.input(std::span<const uint32_t>(values));
  const auto copy = [&](bool wait) {
    return run(memory, [&, wait](const Lane& lane) {
      if (lane.thread() == 0) {
        lane.copy_async(lane.shared(), in, 16);
        lane.copy_async(lane.shared() + 16, in, 4);
        lane.commit_copies();
        lane.commit_copies();
        if (wait) {
          lane.wait_copies(Constant<1>{});
        } else {
          lane.wait_copies(Constant<2>{});
        }
        EXPECT_EQ(lane.load_shared(shared_word(lane, 3)), 4U);
        EXPECT_EQ(lane.load_shared(shared_word(lane, 4)), 1U);
        EXPECT_EQ(lane.load_shared(shared_word(lane, 5)), 0U);
      }
    });
  };
  EXPECT_EQ(copy(true), "");
  EXPECT_THAT(copy(false), HasSubstr("while it is being copied"));
}

TEST(Executor, ThreadsMustMeet) {
  EXPECT_THAT(run([](const Lane& lane) {
                if (lane.thread() < 40) lane.sync();
              }),
              HasSubstr("waits for others at sync, 24 threads have ended"));
  EXPECT_THAT(run([](const Lane& lane) {
                if (lane.thread() % 2 == 0) {
                  lane.sync_warp();
                } else {
                  lane.shuffle_xor(1.F, 1);
                }
              }),
              HasSubstr("is at shuffle, others of its warp at sync_warp"));
}

TEST(Executor, BlocksTalkThroughFencesAndAtomics) {
  const auto hand_over = [](bool fenced) {
    GlobalMemory memory;
    auto* box = memory.allocate<uint32_t>(2, Access::kScratch);
    auto* counter = memory.allocate<uint32_t>(1, Access::kCounter);
    auto* out = memory.allocate<uint32_t>(1, Access::kOutput);
    return run(
        memory,
        [=](const Lane& lane) {
          if (lane.thread() != 0) return;
          lane.store(box + lane.block(), 5U);
          if (fenced) lane.fence();
          if (lane.atomic_add(counter, 1) == 1) lane.store(out, lane.load_coherent(box));
        },
        2);
  };
  EXPECT_EQ(hand_over(true), "");
  EXPECT_THAT(hand_over(false), HasSubstr("had no fence after its write"));
  GlobalMemory memory;
  auto* box = memory.allocate<uint32_t>(1, Access::kScratch);
  EXPECT_THAT(run(
                  memory,
                  [=](const Lane& lane) {
                    if (lane.thread() != 0) return;
                    if (lane.block() == 0) lane.store(box, 1U);
                    if (lane.block() == 1) lane.load_coherent(box);
                  },
                  2),
              HasSubstr("had no fence after its write"));
  auto* out = memory.allocate<uint32_t>(1, Access::kOutput);
  EXPECT_THAT(run(
                  memory,
                  [=](const Lane& lane) {
                    if (lane.thread() == 0) lane.store(out, 1U);
                  },
                  2),
              HasSubstr("that another block wrote"));
}

TEST(Executor, BitsAndBytes) {
  EXPECT_EQ(Lane::lop3(Constant<kAndOr>{}, 0xff00ff00U, 0x0ff00ff0U, 0x1U), 0x0f000f01U);
  EXPECT_EQ(Lane::permute(0x33221100U, 0x77665544U, 0x7520), 0x77552200U);
  EXPECT_EQ(Lane::permute(0x80U, 0U, 0x0008), 0x808080ffU);
  EXPECT_EQ(Lane::fma2(F16{}, 0x3c004000U, 0x3c003c00U, 0xbc003c00U), 0x00004200U);
  EXPECT_EQ(Lane::fma2(BF16{}, 0x3f804000U, 0x3f803f80U, 0xbf803f80U), 0x00004040U);
}

}  // namespace
}  // namespace nibble
