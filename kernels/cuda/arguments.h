// What the kernels of a linear layer are given, and loads and stores they share.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/parameters.h"
#include "kernels/cuda/stream_k.h"
#include "kernels/cuda/weights.h"

namespace nibble {

// y = x W' + bias. Input: F16, BF16, or int8_t for activations quantized by token; Output: F16,
// BF16.
template <typename InputType, typename OutputType = InputType>
struct LinearArguments {
  using Input = InputType;
  using Output = OutputType;

  int M = 0, N = 0, K = 0;
  const Words4* weights = nullptr;  // padded to whole tiles of `padded_columns` columns
  int padded_columns = 0;
  LayerParameters parameters;
  LevelBytes levels{};       // of table weights
  const Input* x = nullptr;  // [M, x_stride], the first K of each; rows at multiples of 16 bytes
  int64_t x_stride = 0;
  const float* row_scale = nullptr;    // [padded rows] of 8-bit layers
  const float* token_scale = nullptr;  // [M] of 8-bit activations
  const Output* bias = nullptr;        // [N] or nullptr
  Output* y = nullptr;                 // [M, N]
  StreamK work;
  void* partial = nullptr;       // [2 work.blocks, elements of a block's tile], 4 bytes each
  uint32_t* counters = nullptr;  // [work.tiles], zero
};

// Sixteen bytes of row m of x, from column k on, into shared memory, zero beyond M and K.
template <typename Gpu, typename Arguments>
NIBBLE_DEVICE void copy_input(const Gpu& gpu, const Arguments& a, Words4* to, int m, int k) {
  constexpr int kBytes = static_cast<int>(sizeof(typename Arguments::Input));
  const int bytes = m < a.M ? (a.K - k) * kBytes : 0;
  gpu.copy_async(to, a.x + (bytes > 0 ? m * a.x_stride + k : 0),
                 bytes >= 16 ? 16
                 : bytes > 0 ? bytes
                             : 0);
}

// One output: the sum of its products, bias, rounding.
template <typename Gpu, typename Arguments>
NIBBLE_DEVICE void store_output(const Gpu& gpu, const Arguments& a, int m, int n, float sum) {
  if (m >= a.M || n >= a.N) return;
  if (a.bias != nullptr) sum += gpu.to_float(gpu.load(a.bias + n));
  gpu.store(a.y + static_cast<int64_t>(m) * a.N + n, gpu.round(typename Arguments::Output{}, sum));
}

}  // namespace nibble
