// AddGram and AddColumns by the block executor against float64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/add_columns.h"
#include "kernels/cuda/add_gram.h"
#include "kernels/cuda/device.h"
#include "tests/kernels/cuda/executor.h"
#include "tests/kernels/cuda/value_types.h"

namespace nibble {
namespace {

using Access = GlobalMemory::Access;

template <typename Kernel>
std::string run_kernel(const typename Kernel::Arguments& a, GlobalMemory& memory) {
  return execute({static_cast<int>(Kernel::blocks(a)), Kernel::kThreads, Kernel::kSharedBytes},
                 memory, [&](const Lane& lane) { Kernel::run(lane, a); });
}

// Two launches: the first starts the sums, the second adds to them. Padding of rows is NaN.
template <typename T>
void check_gram(int M, int K) {
  SCOPED_TRACE(std::to_string(M) + " x " + std::to_string(K));
  const int64_t stride = K + 8;
  std::vector<T> x = random_values<T>(static_cast<size_t>(M * stride), 1);
  for (size_t i = 0; i < x.size(); ++i) {
    if (static_cast<int64_t>(i) % stride >= K) {
      x[i] = rounded<T>(std::numeric_limits<float>::quiet_NaN());
    }
  }
  GlobalMemory memory;
  AddGramArguments<T> a;
  a.K = K;
  a.x_stride = stride;
  a.sum = memory.allocate<float>(static_cast<size_t>(K) * K, Access::kScratch);
  const T* rows = memory.input(std::span<const T>(x));
  const int first = M / 3;
  for (const auto& [begin, count] : {std::pair{0, first}, std::pair{first, M - first}}) {
    a.x = rows + begin * stride;
    a.M = count;
    a.starts = begin == 0;
    ASSERT_EQ(run_kernel<AddGram<T>>(a, memory), "");
  }
  for (int i = 0; i < K; ++i) {
    for (int j = i; j < K; ++j) {
      double sum = 0, size = 0;
      for (int m = 0; m < M; ++m) {
        const double product = to_double(x[m * stride + i]) * to_double(x[m * stride + j]);
        sum += product;
        size += std::abs(product);
      }
      ASSERT_NEAR(a.sum[i * K + j], sum, (M / 16. + 4) * 0x1p-23 * size) << i << " " << j;
    }
  }
}

TEST(AddGram, AddsTheUpperTriangle) {
  check_gram<F16>(70, 40);
  check_gram<BF16>(35, 136);
  check_gram<F16>(5, 264);
}

template <typename T>
void check_columns() {
  constexpr int kRows = 150, kColumns = 136;
  std::vector<T> x = random_values<T>(kRows * kColumns, 2);
  x[3 * kColumns + 5] = rounded<T>(std::numeric_limits<float>::infinity());
  x[70 * kColumns + 6] = rounded<T>(std::numeric_limits<float>::quiet_NaN());
  GlobalMemory memory;
  typename AddColumns<T>::Arguments a;
  a.K = kColumns;
  a.x_stride = kColumns;
  a.absolute = memory.allocate<float>(kColumns, Access::kScratch);
  a.largest = memory.allocate<float>(kColumns, Access::kScratch);
  const T* rows = memory.input(std::span<const T>(x));
  for (const auto& [begin, count] : {std::pair{0, 100}, std::pair{100, 50}}) {
    a.x = rows + begin * kColumns;
    a.M = count;
    a.starts = begin == 0;
    ASSERT_EQ(run_kernel<AddColumns<T>>(a, memory), "");
  }
  for (int k = 0; k < kColumns; ++k) {
    double sum = 0, largest = 0;
    for (int m = 0; m < kRows; ++m) {
      const double size = std::abs(to_double(x[m * kColumns + k]));
      sum += size;
      largest = std::max(largest, size);
    }
    if (!std::isfinite(sum)) {
      EXPECT_FALSE(std::isfinite(a.absolute[k])) << k;
      continue;
    }
    EXPECT_NEAR(a.absolute[k], sum, 70 * 0x1p-24 * sum) << k;
    EXPECT_EQ(a.largest[k], largest) << k;
  }
}

TEST(AddColumns, KeepsSumsAndMaxima) {
  check_columns<F16>();
  check_columns<BF16>();
}

}  // namespace
}  // namespace nibble
