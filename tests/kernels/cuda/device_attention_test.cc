// DeviceAttention by the block executor against float64.
#include "kernels/cuda/device_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"
#include "tests/kernels/cuda/executor.h"
#include "tests/kernels/cuda/value_types.h"

namespace nibble {
namespace {

struct AttentionCase {
  int windows, queries, keys, heads, key_value_heads, head_size, sliding_window;

  std::string name() const {
    return std::to_string(windows) + " windows, " + std::to_string(queries) + " of " +
           std::to_string(keys) + ", heads " + std::to_string(heads) + "/" +
           std::to_string(key_value_heads) + " of " + std::to_string(head_size) + ", sliding " +
           std::to_string(sliding_window);
  }
};

template <typename T, int kHeadSize>
void check(const AttentionCase& c) {
  SCOPED_TRACE(c.name());
  const size_t columns = static_cast<size_t>(c.heads) * c.head_size;
  const size_t key_columns = static_cast<size_t>(c.key_value_heads) * c.head_size;
  const size_t stride = columns + 2 * key_columns;  // keys and values side by side, as c_attn's
  const auto q = random_values<T>(c.windows * c.queries * columns, 1, 2.F);
  const auto kv = random_values<T>(c.windows * c.keys * stride, 2);
  GlobalMemory memory;
  DeviceAttentionArguments<T> a;
  a.windows = c.windows;
  a.queries = c.queries;
  a.keys = c.keys;
  a.heads = c.heads;
  a.key_value_heads = c.key_value_heads;
  a.head_size = c.head_size;
  a.sliding_window = c.sliding_window;
  a.scale = 1.F / std::sqrt(static_cast<float>(c.head_size));
  a.q = memory.input(std::span<const T>(q));
  a.k = memory.input(std::span<const T>(kv)) + columns;
  a.v = a.k + key_columns;
  a.q_stride = static_cast<int64_t>(columns);
  a.k_stride = a.v_stride = static_cast<int64_t>(stride);
  a.out = memory.allocate<T>(q.size(), GlobalMemory::Access::kOutput);
  using Kernel = DeviceAttention<T, kHeadSize>;
  ASSERT_EQ(execute({static_cast<int>(Kernel::blocks(a)), Kernel::kThreads, Kernel::kSharedBytes},
                    memory, [&](const Lane& lane) { Kernel::run(lane, a); }),
            "");
  std::vector<double> expected(q.size()), allowed(q.size());
  for (int row = 0; row < c.windows * c.queries; ++row) {
    const int position = c.keys - c.queries + row % c.queries;
    const int oldest = c.sliding_window == 0 ? 0 : std::max(0, position + 1 - c.sliding_window);
    for (int head = 0; head < c.heads; ++head) {
      const int key_head = head / (c.heads / c.key_value_heads);
      const size_t first = row * columns + static_cast<size_t>(head) * c.head_size;
      const auto value = [&](int key, size_t column) {
        const size_t key_row = static_cast<size_t>(row / c.queries) * c.keys + key;
        return to_double(
            kv[key_row * stride + column + static_cast<size_t>(key_head) * c.head_size]);
      };
      std::vector<double> p;
      double largest = -1e30, size = 0, total = 0;
      for (int key = oldest; key <= position; ++key) {
        double score = 0, terms = 0;
        for (int i = 0; i < c.head_size; ++i) {
          const double term = to_double(q[first + i]) * value(key, columns + i);
          score += term * a.scale;
          terms += std::abs(term) * a.scale;
        }
        p.push_back(score);
        largest = std::max(largest, score);
        size = std::max(size, terms);
      }
      for (double& score : p) {
        score = std::exp(score - largest);
        total += score;
      }
      // A score's sum is off by one rounding each 16 columns, its scaling and the logarithm's base
      // by three; probabilities and the result are rounded to T; sums over keys and steps in
      // float.
      const int score_roundings = c.head_size / 16 + 4;
      const double score_error = score_roundings * 0x1p-23 * 2 * size;
      const int steps = c.keys / 64 + 1;
      const double relative = 2 * score_error + (4 * steps + 40) * 0x1p-23 + half_ulp<T>();
      for (int i = 0; i < c.head_size; ++i) {
        double sum = 0, terms = 0;
        for (size_t j = 0; j < p.size(); ++j) {
          const double term =
              p[j] / total * value(oldest + static_cast<int>(j), columns + key_columns + i);
          sum += term;
          terms += std::abs(term);
        }
        // Probabilities below the smallest normal F16 lose up to 2^-25 of the largest each.
        const double tiny = smallest_step<T>() / total * static_cast<double>(p.size()) * 4;
        expected[first + i] = sum;
        allowed[first + i] =
            relative * terms + tiny + half_ulp<T>() * std::abs(sum) * 1.001 + smallest_step<T>();
      }
    }
  }
  EXPECT_EQ(compare_values<T>({a.out, q.size()}, expected, allowed), "");
}

template <typename T>
void check_all() {
  check<T, 64>({2, 70, 70, 2, 2, 64, 0});
  check<T, 64>({1, 150, 150, 2, 1, 16, 0});
  check<T, 64>({1, 150, 150, 1, 1, 40, 20});  // whole blocks of keys unseen by some queries
  check<T, 64>({2, 3, 130, 2, 1, 64, 100});   // a sequence continued
  check<T, 64>({1, 1, 1, 1, 1, 8, 0});
  check<T, 128>({1, 65, 65, 3, 1, 128, 0});
  check<T, 128>({1, 2, 129, 2, 2, 80, 1});
}

TEST(DeviceAttention, F16) { check_all<F16>(); }
TEST(DeviceAttention, BF16) { check_all<BF16>(); }

}  // namespace
}  // namespace nibble
