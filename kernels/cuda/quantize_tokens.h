// quantize_tokens: activations to 8-bit integers, a scale for each token, as
// quantized_matmul_reference does (src/quantized/quantized_linear.h):
//   s_t = max_k |x[t, k]| / 127.5 (1 for a row of zeros), q[t, k] = clamp(rne(x[t, k] / s_t), -128,
//   127)
// Bound by its bytes, 3 a value. A block has one token and reads it twice, the second time from the
// cache.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

namespace nibble {

template <typename T>
struct QuantizeTokens {
  static constexpr int kThreads = 256;
  static constexpr int kBlocks = 4;  // on a multiprocessor at once
  static constexpr int kWarps = kThreads / kWarpLanes;
  static constexpr int kSharedBytes = 4 * kWarps;

  struct Arguments {
    int M = 0, K = 0;
    const T* x = nullptr;  // [M, x_stride], a multiple of 8; 16-byte aligned
    int64_t x_stride = 0;
    int8_t* q = nullptr;  // [M, q_stride], a multiple of 16: zero beyond K
    int64_t q_stride = 0;
    float* scale = nullptr;  // [M]
  };

  // Largest |x| of eight columns. Rows end at multiples of 8, in whose rest anything may be.
  template <typename Gpu, typename Visit>
  NIBBLE_DEVICE static void for_values(const Gpu& gpu, const Arguments& a, int k,
                                       const Visit& visit) {
    const Words4 words =
        gpu.load(reinterpret_cast<const Words4*>(a.x + gpu.block() * a.x_stride + k));
    NIBBLE_UNROLL
    for (int i = 0; i < 8; ++i) {
      const auto bits = static_cast<uint16_t>(words.word[i / 2] >> 16 * (i % 2));
      visit(i, k + i < a.K ? gpu.to_float(T{bits}) : 0.F);
    }
  }

  template <typename Gpu>
  NIBBLE_DEVICE static float largest(const Gpu& gpu, const Arguments& a) {
    float result = 0.F;
    for (int k = gpu.thread() * 8; k < a.K; k += kThreads * 8) {
      for_values(gpu, a, k, [&](int /*i*/, float value) {
        const float magnitude = value < 0.F ? -value : value;
        result = magnitude > result ? magnitude : result;
      });
    }
    for (int mask = kWarpLanes / 2; mask > 0; mask /= 2) {
      const float other = gpu.shuffle_xor(result, mask);
      result = other > result ? other : result;
    }
    auto* of_warps = reinterpret_cast<float*>(gpu.shared());
    if (gpu.thread() % kWarpLanes == 0) {
      gpu.store_shared(of_warps + gpu.thread() / kWarpLanes, result);
    }
    gpu.sync();
    for (int warp = 0; warp < kWarps; ++warp) {
      const float other = gpu.load_shared(of_warps + warp);
      result = other > result ? other : result;
    }
    return result;
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const float magnitude = largest(gpu, a);
    const float scale = magnitude == 0.F ? 1.F : magnitude / 127.5F;
    if (gpu.thread() == 0) gpu.store(a.scale + gpu.block(), scale);
    for (int k = gpu.thread() * 8; k < a.q_stride; k += kThreads * 8) {
      uint32_t words[2] = {0, 0};
      if (k < a.K) {
        for_values(gpu, a, k, [&](int i, float value) {
          const int q = gpu.round_to_integer(value / scale);
          const int clamped = q < -128 ? -128 : q > 127 ? 127 : q;
          words[i / 4] |= (static_cast<uint32_t>(clamped) & 0xff) << 8 * (i % 4);
        });
      }
      auto* out = reinterpret_cast<uint64_t*>(a.q + gpu.block() * a.q_stride + k);
      gpu.store(out, static_cast<uint64_t>(words[1]) << 32 | words[0]);
    }
  }
};

}  // namespace nibble
