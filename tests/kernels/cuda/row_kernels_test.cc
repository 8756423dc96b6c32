// Kernels on rows of tokens by the block executor against float64: embedding, norms, rotation,
// activations.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/activate.h"
#include "kernels/cuda/add_norm.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/embed_tokens.h"
#include "kernels/cuda/rotate_heads.h"
#include "kernels/cuda/store_rows.h"
#include "tests/kernels/cuda/executor.h"
#include "tests/kernels/cuda/value_types.h"

namespace nibble {
namespace {

using Access = GlobalMemory::Access;

template <typename Kernel>
std::string run(const typename Kernel::Arguments& a, int64_t blocks, GlobalMemory& memory) {
  return execute({static_cast<int>(blocks), Kernel::kThreads, Kernel::kSharedBytes}, memory,
                 [&](const Lane& lane) { Kernel::run(lane, a); });
}

template <typename T>
std::span<const T> constant(const std::vector<T>& values) {
  return values;
}

template <typename T>
void check_embedding(bool has_positions) {
  constexpr int kColumns = 1032;  // more than a block's threads take at once
  const auto tokens = random_values<T>(7 * kColumns, 1);
  const auto positions = random_values<T>(5 * kColumns, 2);
  const std::vector<int32_t> ids = {6, 0, 3, 3, 5, 1};
  GlobalMemory memory;
  typename EmbedTokens<T>::Arguments a;
  a.n = kColumns;
  a.ids = memory.input(constant(ids));
  a.tokens = memory.input(constant(tokens));
  if (has_positions) a.positions = memory.input(constant(positions));
  a.first_position = 2;
  a.window = 3;
  a.x = memory.allocate<float>(ids.size() * kColumns, Access::kOutput);
  ASSERT_EQ(run<EmbedTokens<T>>(a, std::ssize(ids), memory), "");
  for (size_t t = 0; t < ids.size(); ++t) {
    for (size_t k = 0; k < kColumns; ++k) {
      float expected = static_cast<float>(to_double(tokens[ids[t] * kColumns + k]));
      if (has_positions) {
        expected += static_cast<float>(to_double(positions[(2 + t % 3) * kColumns + k]));
      }
      ASSERT_EQ(a.x[t * kColumns + k], expected) << t << " " << k;
    }
  }
}

TEST(StoreRows, CopiesSomeColumns) {
  for (const int columns : {8, 24, 1032}) {
    constexpr int kRows = 5;
    const int64_t stride = columns + 16;
    const auto x = random_values<F16>(static_cast<size_t>(kRows * stride), 3);
    GlobalMemory memory;
    StoreRows<F16>::Arguments a;
    a.M = kRows;
    a.n = columns;
    a.x = memory.input(constant(x)) + 8;
    a.x_stride = stride;
    a.y = memory.allocate<F16>(static_cast<size_t>(kRows) * columns, Access::kOutput);
    ASSERT_EQ(run<StoreRows<F16>>(a, StoreRows<F16>::blocks(a), memory), "");
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t k = 0; k < columns; ++k) {
        ASSERT_EQ(a.y[row * columns + k].bits, x[static_cast<size_t>(row * stride + 8 + k)].bits);
      }
    }
  }
}

TEST(EmbedTokens, AddsPositionsOfEachWindow) {
  for (const bool has_positions : {false, true}) {
    check_embedding<F16>(has_positions);
    check_embedding<BF16>(has_positions);
    check_embedding<float>(has_positions);
  }
}

struct NormCase {
  int n;
  bool subtract_mean;
  bool has_delta;
  bool has_bias;
  bool picks_rows;
};

template <typename T>
void check_norm(const NormCase& c) {
  constexpr float kEpsilon = 1e-3F;
  const std::vector<int32_t> rows = {3, 0, 2};
  const size_t count = c.picks_rows ? rows.size() : 4;
  const auto x = random_values<float>(4 * c.n, 1, 2.F);
  const auto delta = random_values<T>(4 * c.n, 2);
  const auto weight = random_values<float>(c.n, 3);
  const auto bias = random_values<float>(c.n, 4);
  GlobalMemory memory;
  typename AddNorm<T>::Arguments a;
  a.n = c.n;
  a.x = memory.allocate<float>(x.size(), Access::kCounter);  // written before
  std::copy(x.begin(), x.end(), a.x);
  if (c.has_delta) a.delta = memory.input(constant(delta));
  if (c.picks_rows) a.rows = memory.input(constant(rows));
  a.subtract_mean = c.subtract_mean;
  a.epsilon = kEpsilon;
  a.weight = memory.input(constant(weight));
  if (c.has_bias) a.bias = memory.input(constant(bias));
  a.y = memory.allocate<T>(count * c.n, Access::kOutput);
  ASSERT_EQ(run<AddNorm<T>>(a, static_cast<int64_t>(count), memory), "");
  std::vector<double> expected, allowed;
  for (size_t r = 0; r < count; ++r) {
    const size_t row = c.picks_rows ? static_cast<size_t>(rows[r]) : r;
    std::vector<double> sums;
    for (int k = 0; k < c.n; ++k) {
      const size_t i = row * c.n + k;
      const float sum = x[i] + (c.has_delta ? static_cast<float>(to_double(delta[i])) : 0.F);
      ASSERT_EQ(a.x[i], sum);
      sums.push_back(sum);
    }
    double mean = 0, variance = 0, size = 0;
    for (const double value : sums) {
      mean += c.subtract_mean ? value / c.n : 0.;
      size = std::max(size, std::abs(value));
    }
    for (const double value : sums) variance += (value - mean) * (value - mean) / c.n;
    const double deviation = std::sqrt(variance + kEpsilon);
    // A thread adds up to n / 256 + 8 values, then 13 partial sums: relative to the squares'
    // sum, halved by the root; the mean likewise, relative to the largest value.
    const int steps = c.n / 256 + 8 + 13 + 8;
    const double roundings = steps * 0x1p-24;
    for (int k = 0; k < c.n; ++k) {
      const double normed = (sums[k] - mean) / deviation * weight[k];
      const double y = normed + (c.has_bias ? bias[k] : 0.F);
      const double mean_error =
          c.subtract_mean ? roundings * size / deviation * std::abs(weight[k]) : 0.;
      expected.push_back(y);
      allowed.push_back(roundings * std::abs(normed) + mean_error +
                        half_ulp<T>() * std::abs(y) * 1.001 + smallest_step<T>());
    }
  }
  EXPECT_EQ(compare_values<T>({a.y, expected.size()}, expected, allowed), "");
}

TEST(AddNorm, AddsThenNormalizes) {
  for (const NormCase& c :
       {NormCase{64, false, true, false, false}, NormCase{2056, false, false, false, true},
        NormCase{2056, true, true, true, false}, NormCase{72, true, false, false, false}}) {
    check_norm<F16>(c);
    check_norm<BF16>(c);
  }
}

TEST(AddNorm, WithoutWeightsOnlyAdds) {
  const auto delta = random_values<F16>(16, 2);
  GlobalMemory memory;
  AddNorm<F16>::Arguments a;
  a.n = 8;
  a.x = memory.allocate<float>(16, Access::kCounter);
  std::fill_n(a.x, 16, 1.F);
  a.delta = memory.input(constant(delta));
  ASSERT_EQ(run<AddNorm<F16>>(a, 2, memory), "");
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(a.x[i], 1.F + static_cast<float>(to_double(delta[i])));
  }
}

// Two heads of `head_size` in rows with one more column than they need; windows of 3 tokens.
template <typename T>
void check_rotation(int head_size, bool has_norm, bool rotates) {
  constexpr float kEpsilon = 1e-5F;
  constexpr int kTokens = 5, kHeads = 2, kWindow = 3;
  const int half = head_size / 2;
  const size_t stride = static_cast<size_t>(kHeads) * head_size + 1;
  const auto x = random_values<T>(kTokens * stride, 1, 2.F);
  const auto weight = random_values<float>(head_size, 2);
  std::vector<float> cosine, sine;
  for (const float angle : random_values<float>(static_cast<size_t>(kWindow) * half, 3, 3.F)) {
    cosine.push_back(std::cos(angle));
    sine.push_back(std::sin(angle));
  }
  GlobalMemory memory;
  typename RotateHeads<T>::Arguments a;
  a.M = kTokens;
  a.heads = kHeads;
  a.head_size = head_size;
  a.x = memory.allocate<T>(x.size(), Access::kCounter);
  std::copy(x.begin(), x.end(), a.x);
  a.stride = static_cast<int64_t>(stride);
  if (has_norm) a.weight = memory.input(constant(weight));
  a.epsilon = kEpsilon;
  if (rotates) {
    a.cosine = memory.input(constant(cosine));
    a.sine = memory.input(constant(sine));
  }
  a.window = kWindow;
  ASSERT_EQ(run<RotateHeads<T>>(a, RotateHeads<T>::blocks(a), memory), "");
  std::vector<double> expected, allowed;
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t t = i / stride, column = i % stride;
    expected.push_back(to_double(x[i]));
    allowed.push_back(0);
    if (column == stride - 1) continue;
    const T* head = &x[t * stride + column / head_size * head_size];
    double scale = 1;
    if (has_norm) {
      double squares = 0;
      for (int k = 0; k < head_size; ++k) squares += std::pow(to_double(head[k]), 2);
      scale = 1 / std::sqrt(squares / head_size + kEpsilon);
    }
    const auto value = [&](size_t k) {
      return to_double(head[k]) * (has_norm ? scale * weight[k] : 1.);
    };
    const size_t k = column % head_size, pair = k % half;
    const double c = rotates ? cosine[t % kWindow * half + pair] : 1.F;
    const double s = rotates ? sine[t % kWindow * half + pair] : 0.F;
    const double low = value(pair), high = value(pair + half);
    expected.back() = k < static_cast<size_t>(half) ? low * c - high * s : high * c + low * s;
    // Up to 16 roundings of sums of positive terms, halved by the root; the products' own.
    const double size = std::abs(low) + std::abs(high);
    allowed.back() = (8 + 6) * 0x1p-24 * size + half_ulp<T>() * std::abs(expected.back()) * 1.001 +
                     smallest_step<T>();
  }
  EXPECT_EQ(compare_values<T>({a.x, x.size()}, expected, allowed), "");
}

TEST(RotateHeads, NormsAndRotatesInPlace) {
  for (const int head_size : {16, 64, 72, 128}) {
    for (const bool has_norm : {false, true}) {
      check_rotation<F16>(head_size, has_norm, true);
      check_rotation<BF16>(head_size, has_norm, true);
    }
    check_rotation<F16>(head_size, true, false);
  }
}

double reference_activation(DeviceActivation f, double x) {
  switch (f) {
    case DeviceActivation::kSilu:
      return x / (1 + std::exp(-x));
    case DeviceActivation::kGeluTanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    default:
      return x / 2 * (1 + std::erf(x / std::numbers::sqrt2));
  }
}

template <typename T>
void check_activation(DeviceActivation f, bool has_gate) {
  constexpr int kColumns = 2056, kTokens = 2, kStride = kColumns + 8;
  auto gate = random_values<T>(kTokens * kStride, 1, 3.F);
  auto up = random_values<T>(kTokens * kStride, 2, 3.F);
  gate[0] = up[0] = rounded<T>(-1000.F);
  gate[1] = up[1] = rounded<T>(200.F);
  GlobalMemory memory;
  typename Activate<T>::Arguments a;
  a.function = f;
  a.M = kTokens;
  a.n = kColumns;
  if (has_gate) a.gate = memory.input(constant(gate));
  a.up = memory.input(constant(up));
  a.stride = kStride;
  a.y = memory.allocate<T>(kTokens * kColumns, Access::kOutput);
  ASSERT_EQ(run<Activate<T>>(a, Activate<T>::blocks(a), memory), "");
  std::vector<double> expected, allowed;
  for (size_t t = 0; t < kTokens; ++t) {
    for (size_t k = 0; k < kColumns; ++k) {
      const size_t i = t * kStride + k;
      const double x = to_double(has_gate ? gate[i] : up[i]);
      const double factor = has_gate ? to_double(up[i]) : 1.;
      const double y = reference_activation(f, x) * factor;
      expected.push_back(y);
      // exp2 of an argument of up to 40 octaves, off by half an ulp each of three products; erf
      // to 1.5e-7, as its source says, and a few ulp of 1 from its float arithmetic.
      const double octaves = std::min(40., 2 * std::abs(x) + 0.1 * std::abs(x * x * x));
      allowed.push_back((8 + 4 * octaves) * 0x1p-24 * std::abs(y) +
                        (f == DeviceActivation::kGeluErf
                             ? (1.5e-7 + 8 * 0x1p-24) * std::abs(x * factor) / 2
                             : 0x1p-40 * std::abs(factor)) +
                        half_ulp<T>() * std::abs(y) * 1.001 + smallest_step<T>());
    }
  }
  EXPECT_EQ(compare_values<T>({a.y, expected.size()}, expected, allowed), "");
}

TEST(Activate, EachFunctionWithAndWithoutGate) {
  for (const DeviceActivation f :
       {DeviceActivation::kSilu, DeviceActivation::kGeluTanh, DeviceActivation::kGeluErf}) {
    for (const bool has_gate : {false, true}) {
      SCOPED_TRACE(static_cast<int>(f));
      check_activation<F16>(f, has_gate);
      check_activation<BF16>(f, has_gate);
    }
  }
}

}  // namespace
}  // namespace nibble
