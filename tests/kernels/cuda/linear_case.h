// Layers for the tests of the kernels in kernels/cuda: random ones, what they must give in float64,
// how far off a kernel may be, and a run of it by the block executor.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/arguments.h"
#include "kernels/cuda/fragment_linear.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "tests/kernels/cuda/executor.h"

namespace nibble {

struct LinearCase {
  Scheme scheme;
  int64_t M = 1, N = 64, K = 128;
  int blocks = 1;
  bool bias = false;

  std::string name() const;
};

// Codes and parameters of every value that the scheme allows, scales of both signs.
QuantizedLinear random_layer(const Scheme& scheme, int64_t N, int64_t K, uint32_t seed);

// Where the scales of a group go: onto its sums, in float, or into the 16-bit weights.
enum class ScalesGo { kAfterSums, kIntoWeights };

// Values of a type, and all there is to know to judge y = x W' + bias.
struct LinearReference {
  Dtype type = Dtype::kF16;
  std::vector<uint16_t> x;  // [M, stride]; columns beyond K are NaN
  int64_t x_stride = 0;
  std::vector<uint16_t> bias;   // [N] or empty
  std::vector<double> y;        // [M, N]
  std::vector<double> allowed;  // [M, N]
};
LinearReference make_reference(const LinearCase& c, const QuantizedLinear& q, Dtype type,
                               ScalesGo scales);

// First output that is too far off, or empty.
std::string compare(const LinearReference& reference, std::span<const uint16_t> y, int64_t N);

template <typename T>
struct TypeName;
template <>
struct TypeName<F16> {
  static constexpr Dtype kDtype = Dtype::kF16;
};
template <>
struct TypeName<BF16> {
  static constexpr Dtype kDtype = Dtype::kBF16;
};

// Arrays of the layer and of the call in `memory`; tile: rows and tokens of a block's.
template <typename T>
LinearArguments<T> place_arguments(const LinearCase& c, const FragmentLinear& w,
                                   const LinearReference& reference, GlobalMemory& memory) {
  LinearArguments<T> a;
  a.M = static_cast<int>(c.M);
  a.N = static_cast<int>(c.N);
  a.K = static_cast<int>(c.K);
  a.weights = reinterpret_cast<const Words4*>(memory.input(std::span<const uint32_t>(w.words)));
  a.padded_columns = static_cast<int>(w.padded_columns);
  a.parameters.kind = w.scale_kind;
  a.parameters.scale = memory.input(std::span<const std::byte>(w.scale));
  if (!w.zero.empty()) a.parameters.zero = memory.input(std::span<const int8_t>(w.zero));
  a.parameters.map = memory.input(std::span<const float>(w.map));
  a.parameters.second = memory.input(std::span<const float>(w.second));
  a.parameters.offset = w.offset;
  a.parameters.group = static_cast<int>(w.group);
  a.parameters.groups = static_cast<int>(w.groups);
  a.parameters.padded_rows = static_cast<int>(w.padded_rows);
  if (w.kind == FragmentKind::kTable) {
    a.levels = level_bytes(w.levels, TypeName<T>::kDtype == Dtype::kBF16);
  }
  a.x = reinterpret_cast<const T*>(memory.input(std::span<const uint16_t>(reference.x)));
  a.x_stride = reference.x_stride;
  if (c.bias) {
    a.bias = reinterpret_cast<const T*>(memory.input(std::span<const uint16_t>(reference.bias)));
  }
  a.y = memory.allocate<T>(static_cast<size_t>(c.M * c.N), GlobalMemory::Access::kOutput);
  return a;
}

// Kernel: FewTokens or ManyTokens of something.
template <typename Kernel, typename T>
void check_kernel(const LinearCase& c, ScalesGo scales) {
  SCOPED_TRACE(c.name());
  const QuantizedLinear q = random_layer(c.scheme, c.N, c.K, 7);
  const FragmentLinear w = pack_fragments(q, "test");
  const LinearReference reference = make_reference(c, q, TypeName<T>::kDtype, scales);
  GlobalMemory memory;
  LinearArguments<T> a = place_arguments<T>(c, w, reference, memory);
  a.work.tiles = divide_up(c.N, Kernel::kRows) * divide_up(c.M, Kernel::kTokens);
  a.work.units_per_tile = divide_up(w.padded_columns, Kernel::kUnitColumns);
  a.work.blocks = c.blocks;
  ASSERT_LE(a.work.blocks, a.work.units());
  a.partial = memory.allocate<float>(static_cast<size_t>(2 * c.blocks * Kernel::kTileElements),
                                     GlobalMemory::Access::kScratch);
  a.counters =
      memory.allocate<uint32_t>(static_cast<size_t>(a.work.tiles), GlobalMemory::Access::kCounter);
  const std::string problem = execute({c.blocks, Kernel::kThreads, Kernel::kSharedBytes}, memory,
                                      [&](const Lane& lane) { Kernel::run(lane, a); });
  ASSERT_EQ(problem, "");
  EXPECT_EQ(compare(reference,
                    {reinterpret_cast<const uint16_t*>(a.y), static_cast<size_t>(c.M * c.N)}, c.N),
            "");
  for (int64_t tile = 0; tile < a.work.tiles; ++tile) EXPECT_EQ(a.counters[tile], 0U);
}

}  // namespace nibble
