// RotateHeads: what happens to queries and keys before attention, in place: an RMSNorm of each head
// (Qwen3), then the rotary embedding (kernels/rope.h). A warp has one head of one token.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/rows.h"

namespace nibble {

// T: F16, BF16.
template <typename T>
struct RotateHeads {
  static constexpr int kThreads = 256;
  static constexpr int kBlocks = 4;
  static constexpr int kSharedBytes = 0;
  static constexpr int kWarps = kThreads / kWarpLanes;
  static constexpr int kMostPairs = 2;  // of a lane: heads of up to 128

  struct Arguments {
    int M = 0;  // tokens
    int heads = 0;
    int head_size = 0;  // even, up to 128
    T* x = nullptr;     // [M, stride], its first heads * head_size columns
    int64_t stride = 0;
    const float* weight = nullptr;  // [head_size], or nullptr: no norm
    float epsilon = 0.F;
    const float* cosine = nullptr;  // [window, head_size / 2], or nullptr: no rotation
    const float* sine = nullptr;
    int window = 1;  // token t is at row t mod window
  };
  static int64_t blocks(const Arguments& a) {
    return (static_cast<int64_t>(a.M) * a.heads + kWarps - 1) / kWarps;
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const int64_t index = static_cast<int64_t>(gpu.block()) * kWarps + gpu.thread() / kWarpLanes;
    const auto token = static_cast<int>(index / a.heads);
    if (token >= a.M) return;
    const int half = a.head_size / 2;
    const int lane = gpu.thread() % kWarpLanes;
    T* head = a.x + token * a.stride + index % a.heads * a.head_size;
    float low[kMostPairs]{}, high[kMostPairs]{};
    float squares = 0.F;
    NIBBLE_UNROLL
    for (int p = 0; p < kMostPairs; ++p) {
      const int i = lane + p * kWarpLanes;
      if (i >= half) continue;
      low[p] = gpu.to_float(gpu.load_coherent(head + i));
      high[p] = gpu.to_float(gpu.load_coherent(head + half + i));
      squares += low[p] * low[p] + high[p] * high[p];
    }
    if (a.weight != nullptr) {
      squares = reduce_warp(gpu, squares, [](float x, float y) { return x + y; });
      const float scale = 1.F / gpu.sqrt(squares / static_cast<float>(a.head_size) + a.epsilon);
      NIBBLE_UNROLL
      for (int p = 0; p < kMostPairs; ++p) {
        const int i = lane + p * kWarpLanes;
        if (i >= half) continue;
        low[p] *= scale * gpu.load(a.weight + i);
        high[p] *= scale * gpu.load(a.weight + half + i);
      }
    }
    const int64_t row = static_cast<int64_t>(token % a.window) * half;
    NIBBLE_UNROLL
    for (int p = 0; p < kMostPairs; ++p) {
      const int i = lane + p * kWarpLanes;
      if (i >= half) continue;
      const float cosine = a.cosine == nullptr ? 1.F : gpu.load(a.cosine + row + i);
      const float sine = a.cosine == nullptr ? 0.F : gpu.load(a.sine + row + i);
      gpu.store(head + i, gpu.round(T{}, low[p] * cosine - high[p] * sine));
      gpu.store(head + half + i, gpu.round(T{}, high[p] * cosine + low[p] * sine));
    }
  }
};

}  // namespace nibble
