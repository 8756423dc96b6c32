// DenseProduct by the block executor against float64.
#include "kernels/cuda/dense_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/device.h"
#include "tests/kernels/cuda/executor.h"
#include "tests/kernels/cuda/value_types.h"

namespace nibble {
namespace {

struct DenseCase {
  int M, N, K;
  bool bias;
};

template <typename T, typename Output>
void check(const DenseCase& c) {
  SCOPED_TRACE(std::to_string(c.M) + " x " + std::to_string(c.N) + " x " + std::to_string(c.K));
  const size_t stride = (c.K + 7) / 8 * 8 + 8;
  // What is beyond K is never read: infinities would show.
  auto x = random_values<T>(c.M * stride, 1);
  auto w = random_values<T>(c.N * stride, 2);
  for (auto* values : {&x, &w}) {
    for (size_t i = 0; i < values->size(); ++i) {
      if (i % stride >= static_cast<size_t>(c.K)) (*values)[i] = rounded<T>(INFINITY);
    }
  }
  const auto bias = random_values<T>(c.N, 3);
  GlobalMemory memory;
  DenseArguments<T, Output> a;
  a.M = c.M;
  a.N = c.N;
  a.K = c.K;
  a.x = memory.input(std::span<const T>(x));
  a.x_stride = static_cast<int64_t>(stride);
  a.weights = memory.input(std::span<const T>(w));
  a.weights_stride = static_cast<int64_t>(stride);
  if (c.bias) a.bias = memory.input(std::span<const T>(bias));
  const size_t count = static_cast<size_t>(c.M) * c.N;
  a.y = memory.allocate<Output>(count, GlobalMemory::Access::kOutput);
  a.y_stride = c.N;
  using Kernel = DenseProduct<T, Output>;
  ASSERT_EQ(execute({static_cast<int>(Kernel::blocks(a)), Kernel::kThreads, Kernel::kSharedBytes},
                    memory, [&](const Lane& lane) { Kernel::run(lane, a); }),
            "");
  std::vector<double> expected, allowed;
  for (int m = 0; m < c.M; ++m) {
    for (int n = 0; n < c.N; ++n) {
      double sum = c.bias ? to_double(bias[n]) : 0;
      double size = std::abs(sum);
      for (int k = 0; k < c.K; ++k) {
        const double term = to_double(x[m * stride + k]) * to_double(w[n * stride + k]);
        sum += term;
        size += std::abs(term);
      }
      // A rounding (a tensor core may cut off) for every 16 columns, one for the bias.
      expected.push_back(sum);
      const int roundings = c.K / 16 + 3;
      allowed.push_back(roundings * 0x1p-23 * size +
                        (std::is_same_v<Output, float>
                             ? 0
                             : half_ulp<T>() * std::abs(sum) * 1.001 + smallest_step<T>()));
    }
  }
  EXPECT_EQ(compare_values<Output>({a.y, count}, expected, allowed), "");
}

TEST(DenseProduct, RaggedInEveryDimension) {
  for (const DenseCase& c : {DenseCase{1, 8, 8, false}, DenseCase{130, 140, 64, true},
                             DenseCase{5, 130, 200, true}, DenseCase{140, 3, 45, false}}) {
    check<F16, F16>(c);
    check<F16, float>(c);
    check<BF16, BF16>(c);
    check<BF16, float>(c);
  }
}

}  // namespace
}  // namespace nibble
