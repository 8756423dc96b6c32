// StoreRows: some columns of rows, copied to rows elsewhere: keys and values into a cache. A thread
// moves 16 bytes.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

namespace nibble {

// T: F16, BF16.
template <typename T>
struct StoreRows {
  static constexpr int kThreads = 256;
  static constexpr int kBlocks = 4;
  static constexpr int kSharedBytes = 0;
  static constexpr int kTogether = 8;  // values of a thread

  struct Arguments {
    int M = 0;             // rows
    int n = 0;             // columns, a multiple of 8
    const T* x = nullptr;  // [M, x_stride], rows at multiples of 16 bytes
    int64_t x_stride = 0;
    T* y = nullptr;  // [M, n]
  };
  static int64_t blocks(const Arguments& a) {
    return (static_cast<int64_t>(a.M) * (a.n / kTogether) + kThreads - 1) / kThreads;
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const int64_t i = static_cast<int64_t>(gpu.block()) * kThreads + gpu.thread();
    const int pieces = a.n / kTogether;
    const int64_t row = i / pieces;
    if (row >= a.M) return;
    const auto column = static_cast<int>(i % pieces) * kTogether;
    const T* from = a.x + row * a.x_stride + column;
    gpu.store(reinterpret_cast<Words4*>(a.y + row * a.n + column),
              gpu.load(reinterpret_cast<const Words4*>(from)));
  }
};

}  // namespace nibble
