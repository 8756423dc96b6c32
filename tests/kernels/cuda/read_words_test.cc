#include "kernels/cuda/read_words.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/device.h"
#include "tests/kernels/cuda/executor.h"

namespace nibble {
namespace {

// Whole rounds of loads, a rest, and less than one word a thread.
TEST(ReadWords, AddsEveryWordOnce) {
  for (const int64_t count : {5, 300, 2 * 8 * 256 + 3, 20'000}) {
    std::vector<Words4> words(static_cast<size_t>(count));
    uint32_t expected = 0;
    for (int64_t i = 0; i < 4 * count; ++i) {
      const auto value = static_cast<uint32_t>(i * 2654435761);
      words[i / 4].word[i % 4] = value;
      expected += value;
    }
    GlobalMemory memory;
    ReadWords::Arguments a;
    a.words = memory.input(std::span<const Words4>(words));
    a.count = count;
    constexpr int kBlocks = 2;
    a.sums =
        memory.allocate<uint32_t>(kBlocks * ReadWords::kThreads, GlobalMemory::Access::kOutput);
    ASSERT_EQ(execute({kBlocks, ReadWords::kThreads, 0}, memory,
                      [&](const Lane& lane) { ReadWords::run(lane, a); }),
              "");
    uint32_t sum = 0;
    for (int i = 0; i < kBlocks * ReadWords::kThreads; ++i) sum += a.sums[i];
    EXPECT_EQ(sum, expected) << count;
  }
}

}  // namespace
}  // namespace nibble
