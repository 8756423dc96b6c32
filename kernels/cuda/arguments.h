// What the kernels of a layer with 16-bit activations are given, and loads they share.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/parameters.h"
#include "kernels/cuda/stream_k.h"
#include "kernels/cuda/weights.h"

namespace nibble {

// y = x W' + bias; T is F16 or BF16.
template <typename T>
struct LinearArguments {
  int M = 0, N = 0, K = 0;
  const Words4* weights = nullptr;  // padded to whole tiles of `padded_columns` columns
  int padded_columns = 0;
  LayerParameters parameters;
  LevelBytes levels{};  // of table weights
  const T* x =
      nullptr;  // [M, x_stride], the first K of each; x_stride is a multiple of 8; 16-byte aligned
  int64_t x_stride = 0;
  const T* bias = nullptr;  // [N] or nullptr
  T* y = nullptr;           // [M, N]
  StreamK work;
  float* partial = nullptr;      // [2 work.blocks, elements of a block's tile]
  uint32_t* counters = nullptr;  // [work.tiles], zero
};

// Columns k .. k + 7 of row m of x into shared memory, zero beyond M and K; k is a multiple of 8.
template <typename Gpu, typename T>
NIBBLE_DEVICE void copy_eight(const Gpu& gpu, const LinearArguments<T>& a, Words4* to, int m,
                              int k) {
  const int columns = m < a.M ? a.K - k : 0;
  gpu.copy_async(to, a.x + (columns > 0 ? m * a.x_stride + k : 0),
                 columns >= 8  ? 16
                 : columns > 0 ? 2 * columns
                               : 0);
}

// One output: the sum of its products, bias, rounding.
template <typename Gpu, typename T>
NIBBLE_DEVICE void store_output(const Gpu& gpu, const LinearArguments<T>& a, int m, int n,
                                float sum) {
  if (m >= a.M || n >= a.N) return;
  if (a.bias != nullptr) sum += gpu.to_float(gpu.load(a.bias + n));
  gpu.store(a.y + static_cast<int64_t>(m) * a.N + n, gpu.round(T{}, sum));
}

}  // namespace nibble
