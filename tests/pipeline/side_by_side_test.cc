#include "src/pipeline/side_by_side.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace nibble {
namespace {

// Sets OpenMP's threads for a test.
class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

TEST(SideBySide, EveryJobRunsOnce) {
  for (const int threads : {1, 2, 3, 9}) {
    const Threads set(threads);
    for (const size_t count : {0, 1, 2, 50}) {
      std::vector<std::atomic<int>> runs(count);
      run_side_by_side(count, [&](size_t i) { ++runs[i]; });
      for (const auto& run : runs) EXPECT_EQ(run, 1);
    }
    EXPECT_EQ(omp_get_max_threads(), threads);
  }
}

TEST(SideBySide, JobsShareTheThreads) {
  for (const int threads : {1, 2, 3, 4, 9}) {
    const Threads set(threads);
    const int width = std::min(threads, kSideBySide);
    std::atomic<int> running = 0;
    std::atomic<int> too_many = 0;
    run_side_by_side(200, [&](size_t) {
      if (++running > width) ++too_many;
      const int share = omp_get_max_threads();
      EXPECT_GE(share, threads / width);
      EXPECT_LE(share, (threads + width - 1) / width);
      std::this_thread::yield();
      --running;
    });
    EXPECT_EQ(too_many, 0);
  }
}

// Both jobs wait for the other: alone they would not end.
TEST(SideBySide, JobsRunAtTheSameTime) {
  const Threads set(2);
  std::atomic<int> begun = 0;
  run_side_by_side(2, [&](size_t) {
    ++begun;
    while (begun < 2) {
    }
  });
  EXPECT_EQ(begun, 2);
}

TEST(SideBySide, TheFirstFailingJobIsReportedAndNoneBeginsAfterIt) {
  for (const int threads : {1, 4}) {
    const Threads set(threads);
    std::vector<std::atomic<int>> runs(1000);
    std::string what;
    try {
      run_side_by_side(runs.size(), [&](size_t i) {
        ++runs[i];
        if (i == 7 || i == 9 || i > 100) throw std::runtime_error(std::to_string(i));
      });
    } catch (const std::runtime_error& error) {
      what = error.what();
    }
    EXPECT_EQ(what, "7");
    for (size_t i = 0; i < 8; ++i) EXPECT_EQ(runs[i], 1);
    EXPECT_EQ(runs.back(), 0);
    EXPECT_EQ(omp_get_max_threads(), threads);
  }
}

}  // namespace
}  // namespace nibble
