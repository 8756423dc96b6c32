// ScoreLogits: what cross-entropy and KL divergence need of each row's logits, a chunk of the
// vocabulary at a time, so that logits are never whole (kernels/cross_entropy.h,
// kernels/divergence.h): largest logit and where it is, sum of exponentials, the target's logit;
// with a reference also
//   weighted = sum exp(p - largest p) (p - q)
// of which KL(p || q) = weighted / sum p - (log Zp - log Zq). Equal logits give exactly 0. A block
// has one row; sums are in float, in a fixed order.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/rows.h"

namespace nibble {

// Of one model and row, over the vocabulary so far.
struct alignas(16) LogitSums {
  float largest;
  float sum;     // of exp(logit - largest)
  float target;  // its logit
  float top;     // index of the largest, the first of equals; exact below 2^24
};

struct ScoreLogits {
  static constexpr int kThreads = 256;
  static constexpr int kBlocks = 4;
  static constexpr int kSharedBytes = 4 * kThreads / kWarpLanes;

  struct Arguments {
    int first = 0;                     // vocabulary entry of column 0; 0 starts the sums
    int columns = 0;                   // of this chunk
    int64_t stride = 0;                // of the logits
    const int32_t* targets = nullptr;  // [blocks]
    const float* q = nullptr;          // [blocks, stride]: of the model
    const float* p = nullptr;          // likewise of its reference, or nullptr
    LogitSums* q_sums = nullptr;       // [blocks]
    LogitSums* p_sums = nullptr;       // [blocks] with p
    float* weighted = nullptr;         // [blocks] with p
  };

  struct Top {
    float value;
    float index;
  };

  template <typename Gpu>
  NIBBLE_DEVICE static Top top_of(const Gpu& gpu, const Arguments& a, const float* row) {
    Top top{kMinusInfinity, 0.F};
    for (int i = gpu.thread(); i < a.columns; i += kThreads) {
      const float value = gpu.load(row + i);
      if (value > top.value) top = {value, static_cast<float>(a.first + i)};
    }
    auto* shared = reinterpret_cast<float*>(gpu.shared());
    const float value = reduce_block<kThreads>(gpu, top.value, shared, larger);
    const float index = top.value == value ? -top.index : kMinusInfinity;
    return {value, -reduce_block<kThreads>(gpu, index, shared, larger)};
  }

  template <typename Gpu>
  NIBBLE_DEVICE static float exp_of(const Gpu& gpu, float value) {
    return gpu.exp2(value * kLog2E);
  }

  // Sums with this chunk's largest logit in them; all but `sum`, which is rescaled.
  template <typename Gpu>
  NIBBLE_DEVICE static LogitSums start(const Gpu& gpu, const Arguments& a, const float* row,
                                       const LogitSums* sums) {
    const Top top = top_of(gpu, a, row);
    const int target = gpu.load(a.targets + gpu.block()) - a.first;
    LogitSums s{top.value, 0.F, 0.F, top.index};
    if (a.first > 0) {
      const LogitSums before = gpu.load_coherent(sums + gpu.block());
      if (before.largest >= top.value) {
        s.largest = before.largest;
        s.top = before.top;
      }
      s.sum = before.sum * exp_of(gpu, before.largest - s.largest);
      s.target = before.target;
    }
    if (target >= 0 && target < a.columns) s.target = gpu.load(row + target);
    return s;
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const int64_t offset = gpu.block() * a.stride;
    const float* q = a.q + offset;
    LogitSums q_sums = start(gpu, a, q, a.q_sums);
    LogitSums p_sums{};
    if (a.p != nullptr) p_sums = start(gpu, a, a.p + offset, a.p_sums);
    float q_sum = 0.F, p_sum = 0.F, weighted = 0.F;
    for (int i = gpu.thread(); i < a.columns; i += kThreads) {
      const float lq = gpu.load(q + i);
      q_sum += exp_of(gpu, lq - q_sums.largest);
      if (a.p == nullptr) continue;
      const float lp = gpu.load(a.p + offset + i);
      const float weight = exp_of(gpu, lp - p_sums.largest);
      p_sum += weight;
      weighted += weight * (lp - lq);
    }
    auto* shared = reinterpret_cast<float*>(gpu.shared());
    q_sums.sum += sum_of_block<kThreads>(gpu, q_sum, shared);
    if (gpu.thread() == 0) gpu.store(a.q_sums + gpu.block(), q_sums);
    if (a.p == nullptr) return;
    weighted = sum_of_block<kThreads>(gpu, weighted, shared);
    if (a.first > 0) {
      const float before = gpu.load_coherent(&a.p_sums[gpu.block()].largest);
      weighted +=
          gpu.load_coherent(a.weighted + gpu.block()) * exp_of(gpu, before - p_sums.largest);
    }
    p_sums.sum += sum_of_block<kThreads>(gpu, p_sum, shared);  // whose barriers end the reading
    if (gpu.thread() != 0) return;
    gpu.store(a.p_sums + gpu.block(), p_sums);
    gpu.store(a.weighted + gpu.block(), weighted);
  }
};

}  // namespace nibble
