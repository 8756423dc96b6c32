// Layers for the tests of the kernels in kernels/cuda, by kernels/bench/linear_reference.h, and a
// run of them by the block executor.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/packing/packing.h"
#include "kernels/bench/linear_reference.h"
#include "kernels/cuda/arguments.h"
#include "kernels/cuda/fragment_linear.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
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
                               Arithmetic arithmetic);

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

LayerParameters place_parameters(const FragmentLinear& w, GlobalMemory& memory);

// What all kernels of a layer are given; weights and parameters into `memory`.
template <typename Arguments>
Arguments place_layer(const LinearCase& c, const FragmentLinear& w, GlobalMemory& memory) {
  Arguments a;
  a.M = static_cast<int>(c.M);
  a.N = static_cast<int>(c.N);
  a.K = static_cast<int>(c.K);
  a.weights = reinterpret_cast<const Words4*>(memory.input(std::span<const uint32_t>(w.words)));
  a.padded_columns = static_cast<int>(w.padded_columns);
  a.parameters = place_parameters(w, memory);
  return a;
}

// Runs FewTokens or TokenTiles of something, with the arguments completed: work, scratch, y.
// Empty, or what went wrong.
template <typename Kernel>
std::string run_linear(const LinearCase& c, typename Kernel::Arguments& a, GlobalMemory& memory) {
  a.work.tiles = divide_up(c.N, Kernel::kRows) * divide_up(c.M, Kernel::kTokens);
  a.work.units_per_tile = a.padded_columns / Kernel::kUnitColumns;
  a.work.blocks = c.blocks;
  if (a.work.blocks > a.work.units()) return "more blocks than units";
  a.partial =
      memory.allocate<float>(size_t{2} * static_cast<size_t>(c.blocks) * Kernel::kTileElements,
                             GlobalMemory::Access::kScratch);
  a.counters =
      memory.allocate<uint32_t>(static_cast<size_t>(a.work.tiles), GlobalMemory::Access::kCounter);
  a.y = memory.allocate<typename Kernel::Arguments::Output>(static_cast<size_t>(c.M * c.N),
                                                            GlobalMemory::Access::kOutput);
  std::string problem = execute({c.blocks, Kernel::kThreads, Kernel::kSharedBytes}, memory,
                                [&](const Lane& lane) { Kernel::run(lane, a); });
  for (int64_t tile = 0; tile < a.work.tiles && problem.empty(); ++tile) {
    if (a.counters[tile] != 0) problem = "a counter is not zero again";
  }
  return problem;
}

template <typename Kernel, typename T>
void check_kernel(const LinearCase& c, Arithmetic arithmetic) {
  SCOPED_TRACE(c.name());
  const QuantizedLinear q = random_layer(c.scheme, c.N, c.K, 7);
  const FragmentLinear w = pack_fragments(q, "test");
  const LinearReference reference = make_reference(c, q, TypeName<T>::kDtype, arithmetic);
  GlobalMemory memory;
  auto a = place_layer<LinearArguments<T>>(c, w, memory);
  if (w.kind == FragmentKind::kTable) {
    a.levels = level_bytes(w.levels, TypeName<T>::kDtype == Dtype::kBF16);
  }
  a.x = reinterpret_cast<const T*>(memory.input(std::span<const uint16_t>(reference.x)));
  a.x_stride = reference.x_stride;
  if (c.bias) {
    a.bias = reinterpret_cast<const T*>(memory.input(std::span<const uint16_t>(reference.bias)));
  }
  ASSERT_EQ(run_linear<Kernel>(c, a, memory), "");
  const std::span y(reinterpret_cast<const uint16_t*>(a.y), static_cast<size_t>(c.M * c.N));
  EXPECT_EQ(compare(reference, y, c.N), "");
}

}  // namespace nibble
