// What kernels on rows of values share: eight neighbouring values at a time as floats, and
// reductions over a block in a fixed order.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "kernels/cuda/device.h"

namespace nibble {

inline constexpr float kLog2E = 1.44269504F;
inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

struct Floats8 {
  float value[8];
};

NIBBLE_DEVICE Floats8 join(const Floats4& low, const Floats4& high) {
  return {{low.value[0], low.value[1], low.value[2], low.value[3], high.value[0], high.value[1],
           high.value[2], high.value[3]}};
}

// p: F16, BF16 or float, 16-byte aligned.
template <typename Gpu, typename T>
NIBBLE_DEVICE Floats8 load8(const Gpu& gpu, const T* p) {
  if constexpr (std::is_same_v<T, float>) {
    const auto* four = reinterpret_cast<const Floats4*>(p);
    return join(gpu.load(four), gpu.load(four + 1));
  } else {
    const Words4 words = gpu.load(reinterpret_cast<const Words4*>(p));
    Floats8 result{};
    NIBBLE_UNROLL
    for (int i = 0; i < 8; ++i) {
      result.value[i] = gpu.to_float(T{static_cast<uint16_t>(words.word[i / 2] >> 16 * (i % 2))});
    }
    return result;
  }
}

// Of floats that the launch writes.
template <typename Gpu>
NIBBLE_DEVICE Floats8 load8_coherent(const Gpu& gpu, const float* p) {
  const auto* four = reinterpret_cast<const Floats4*>(p);
  return join(gpu.load_coherent(four), gpu.load_coherent(four + 1));
}

// Rounded to T: F16, BF16 or float.
template <typename Gpu, typename T>
NIBBLE_DEVICE void store8(const Gpu& gpu, T* p, const Floats8& v) {
  if constexpr (std::is_same_v<T, float>) {
    auto* four = reinterpret_cast<Floats4*>(p);
    gpu.store(four, Floats4{{v.value[0], v.value[1], v.value[2], v.value[3]}});
    gpu.store(four + 1, Floats4{{v.value[4], v.value[5], v.value[6], v.value[7]}});
  } else {
    gpu.store(
        reinterpret_cast<Words4*>(p),
        Words4{{gpu.round2(T{}, v.value[0], v.value[1]), gpu.round2(T{}, v.value[2], v.value[3]),
                gpu.round2(T{}, v.value[4], v.value[5]), gpu.round2(T{}, v.value[6], v.value[7])}});
  }
}

// combine(a, b), which must not depend on the order of a and b, over the lanes of a warp; the same
// bits in each. Sizes: powers of two up to 32; lanes are reduced in groups of so many.
template <int kSize = kWarpLanes, typename Gpu, typename Combine>
NIBBLE_DEVICE float reduce_warp(const Gpu& gpu, float value, const Combine& combine) {
  NIBBLE_UNROLL
  for (int mask = kSize / 2; mask > 0; mask /= 2) {
    value = combine(value, gpu.shuffle_xor(value, mask));
  }
  return value;
}

// Likewise over a block of kThreads. shared: [kThreads / 32], which nothing else uses meanwhile.
template <int kThreads, typename Gpu, typename Combine>
NIBBLE_DEVICE float reduce_block(const Gpu& gpu, float value, float* shared,
                                 const Combine& combine) {
  value = reduce_warp(gpu, value, combine);
  gpu.sync();  // what is there was read
  if (gpu.thread() % kWarpLanes == 0) gpu.store_shared(shared + gpu.thread() / kWarpLanes, value);
  gpu.sync();
  float result = gpu.load_shared(shared);
  for (int warp = 1; warp < kThreads / kWarpLanes; ++warp) {
    result = combine(result, gpu.load_shared(shared + warp));
  }
  return result;
}

NIBBLE_DEVICE float larger(float a, float b) { return a > b ? a : b; }

template <int kThreads, typename Gpu>
NIBBLE_DEVICE float sum_of_block(const Gpu& gpu, float value, float* shared) {
  return reduce_block<kThreads>(gpu, value, shared, [](float a, float b) { return a + b; });
}

}  // namespace nibble
