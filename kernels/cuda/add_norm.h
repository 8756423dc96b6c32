// AddNorm: a layer's output onto the residual stream, and the norm of the sum, RMSNorm or LayerNorm
// (kernels/norm.h):
//   x += delta,  y = (x - mean) / sqrt(mean((x - mean)^2) + epsilon) * weight + bias
// with mean 0 for RMSNorm. Bound by its bytes, 12 a value; a block has one row, which it reads
// again from the cache.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/rows.h"

namespace nibble {

// T: F16, BF16.
template <typename T>
struct AddNorm {
  static constexpr int kThreads = 256;
  static constexpr int kBlocks = 4;
  static constexpr int kSharedBytes = 4 * kThreads / kWarpLanes;

  struct Arguments {
    int n = 0;                      // columns, a multiple of 8
    float* x = nullptr;             // [M, n]
    const T* delta = nullptr;       // [M, n] or nullptr
    const int32_t* rows = nullptr;  // [blocks]: which rows of x, each once; or nullptr: all
    bool subtract_mean = false;     // LayerNorm
    float epsilon = 0.F;
    const float* weight = nullptr;  // [n], or nullptr: only the sum
    const float* bias = nullptr;    // [n] or nullptr
    T* y = nullptr;                 // [blocks, n]
  };

  // visit(column, eight values of the block's row of x).
  template <typename Gpu, typename Visit>
  NIBBLE_DEVICE static void for_values(const Gpu& gpu, const Arguments& a, const float* x,
                                       const Visit& visit) {
    for (int k = gpu.thread() * 8; k < a.n; k += kThreads * 8) {
      visit(k, load8_coherent(gpu, x + k));
    }
  }

  // Mean of f(x) over the row.
  template <typename Gpu, typename Function>
  NIBBLE_DEVICE static float mean(const Gpu& gpu, const Arguments& a, const float* x,
                                  const Function& f) {
    float sum = 0.F;
    for_values(gpu, a, x, [&](int /*k*/, const Floats8& v) {
      NIBBLE_UNROLL
      for (int i = 0; i < 8; ++i) sum += f(v.value[i]);
    });
    return sum_of_block<kThreads>(gpu, sum, reinterpret_cast<float*>(gpu.shared())) /
           static_cast<float>(a.n);
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const int64_t row = a.rows == nullptr ? gpu.block() : gpu.load(a.rows + gpu.block());
    float* x = a.x + row * a.n;
    if (a.delta != nullptr) {
      for_values(gpu, a, x, [&](int k, Floats8 v) {
        const Floats8 delta = load8(gpu, a.delta + row * a.n + k);
        NIBBLE_UNROLL
        for (int i = 0; i < 8; ++i) v.value[i] += delta.value[i];
        store8(gpu, x + k, v);
      });
    }
    if (a.weight == nullptr) return;
    const float center = a.subtract_mean ? mean(gpu, a, x, [](float value) { return value; }) : 0.F;
    const float variance =
        mean(gpu, a, x, [&](float value) { return (value - center) * (value - center); });
    const float scale = 1.F / gpu.sqrt(variance + a.epsilon);
    for_values(gpu, a, x, [&](int k, Floats8 v) {
      const Floats8 weight = load8(gpu, a.weight + k);
      Floats8 bias{};
      if (a.bias != nullptr) bias = load8(gpu, a.bias + k);
      NIBBLE_UNROLL
      for (int i = 0; i < 8; ++i) {
        v.value[i] = (v.value[i] - center) * scale * weight.value[i] + bias.value[i];
      }
      store8(gpu, a.y + static_cast<int64_t>(gpu.block()) * a.n + k, v);
    });
  }
};

}  // namespace nibble
