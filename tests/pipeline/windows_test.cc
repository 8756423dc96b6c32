// Which tokens each protocol scores.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "src/pipeline/evaluate.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// How often each id of the stream is a scored target.
std::vector<int> scored(const Windows& windows, int64_t ids) {
  std::vector<int> counts(static_cast<size_t>(ids));
  for (size_t w = 0; w < windows.starts.size(); ++w) {
    for (int64_t t = windows.first_target[w]; t < windows.last_target; ++t) {
      ++counts[static_cast<size_t>(windows.starts[w] + t)];
    }
  }
  return counts;
}

TEST(Windows, HfScoresAllButTheFirstTokenOfEachWindowAndDropsTheRemainder) {
  const Windows windows = make_windows(Protocol::kHf, 11, 4, 4, true);
  EXPECT_EQ(windows.starts, (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(scored(windows, 11), (std::vector<int>{0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0}));
  EXPECT_FALSE(windows.bos_first);
}

TEST(Windows, AStrideScoresEveryTokenOnce) {
  const Windows windows = make_windows(Protocol::kHf, 10, 4, 2, false);
  EXPECT_EQ(scored(windows, 10), (std::vector<int>{0, 1, 1, 1, 1, 1, 1, 1, 1, 1}));
}

// llama-perplexity: first = n_ctx / 2, logits first .. n_ctx - 2 predict tokens first + 1 .. n_ctx
// - 1.
TEST(Windows, LlamaCppScoresTheSecondHalf) {
  const Windows windows = make_windows(Protocol::kLlamaCpp, 16, 8, 8, true);
  EXPECT_EQ(scored(windows, 16),
            (std::vector<int>{0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1}));
  EXPECT_TRUE(windows.bos_first);
}

TEST(Windows, InWhichNothingIsScoredAreAnError) {
  EXPECT_THROW(make_windows(Protocol::kHf, 16, 1, 1, false), Error);
  EXPECT_THROW(make_windows(Protocol::kLlamaCpp, 16, 2, 2, false), Error);
  EXPECT_EQ(scored(make_windows(Protocol::kLlamaCpp, 3, 3, 3, false), 3),
            (std::vector<int>{0, 0, 1}));
}

TEST(Windows, ATextShorterThanOneWindowIsAnError) {
  EXPECT_THROW(make_windows(Protocol::kHf, 3, 4, 4, false), Error);
}

}  // namespace
}  // namespace nibble
