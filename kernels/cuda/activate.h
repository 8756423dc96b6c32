// Activate: y = f(gate) * up, or f(up) where there is no gate; f is SiLU or a GELU
// (kernels/activation.h).
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/rows.h"

namespace nibble {

enum class DeviceActivation { kSilu, kGeluTanh, kGeluErf };

// erf(x) for x >= 0, to 1.5e-7: Abramowitz and Stegun, 1964, 7.1.26.
template <typename Gpu>
NIBBLE_DEVICE float erf_of_positive(const Gpu& gpu, float x) {
  const float t = 1.F / (1.F + 0.3275911F * x);
  float sum = gpu.fma(t, 1.061405429F, -1.453152027F);
  sum = gpu.fma(t, sum, 1.421413741F);
  sum = gpu.fma(t, sum, -0.284496736F);
  sum = gpu.fma(t, sum, 0.254829592F);
  return 1.F - sum * t * gpu.exp2(-x * x * kLog2E);
}

template <typename Gpu>
NIBBLE_DEVICE float activation(const Gpu& gpu, DeviceActivation f, float x) {
  if (f == DeviceActivation::kGeluErf) {
    constexpr float kRootHalf = 0.707106781F;
    const float erf = erf_of_positive(gpu, (x < 0.F ? -x : x) * kRootHalf);
    return 0.5F * x * (1.F + (x < 0.F ? -erf : erf));
  }
  constexpr float kTwoRootTwoOverPi = 1.59576912F;
  const float exponent =
      f == DeviceActivation::kSilu ? x : kTwoRootTwoOverPi * (x + 0.044715F * x * x * x);
  return x / (1.F + gpu.exp2(-exponent * kLog2E));
}

// T: F16, BF16. A block has kTile values of one token.
template <typename T>
struct Activate {
  static constexpr int kThreads = 256;
  static constexpr int kBlocks = 4;
  static constexpr int kSharedBytes = 0;
  static constexpr int kTile = kThreads * 8;

  struct Arguments {
    DeviceActivation function = DeviceActivation::kSilu;
    int M = 0;
    int n = 0;                // a multiple of 8
    const T* gate = nullptr;  // [M, stride], the first n of each; or nullptr
    const T* up = nullptr;    // likewise
    int64_t stride = 0;       // a multiple of 8
    T* y = nullptr;           // [M, n]
  };
  static int64_t blocks(const Arguments& a) {
    return static_cast<int64_t>(a.M) * ((a.n + kTile - 1) / kTile);
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const int tiles = (a.n + kTile - 1) / kTile;
    const int64_t token = gpu.block() / tiles;
    const int k = gpu.block() % tiles * kTile + gpu.thread() * 8;
    if (k >= a.n) return;
    Floats8 y = load8(gpu, a.up + token * a.stride + k);
    Floats8 gate = y;
    if (a.gate != nullptr) gate = load8(gpu, a.gate + token * a.stride + k);
    NIBBLE_UNROLL
    for (int i = 0; i < 8; ++i) {
      const float f = activation(gpu, a.function, gate.value[i]);
      y.value[i] = a.gate == nullptr ? f : f * y.value[i];
    }
    store8(gpu, a.y + token * a.n + k, y);
  }
};

}  // namespace nibble
