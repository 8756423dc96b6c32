// AddColumns: of every column of X [T, K] the sum and the largest of |x|, added to what earlier
// tokens gave (ColumnSums of kernels/hessian.h). NaN and infinity stay in the sums. A thread has
// one column; sums of kTogether tokens in float are added in float to the sum so far.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/rows.h"

namespace nibble {

// T: F16, BF16.
template <typename T>
struct AddColumns {
  static constexpr int kThreads = 128;
  static constexpr int kBlocks = 4;
  static constexpr int kSharedBytes = 0;
  static constexpr int kTogether = 64;

  struct Arguments {
    int M = 0;
    int K = 0;
    const T* x = nullptr;  // [M, x_stride]
    int64_t x_stride = 0;
    bool starts = false;        // nothing is there yet
    float* absolute = nullptr;  // [K]
    float* largest = nullptr;   // [K]
  };
  static int64_t blocks(const Arguments& a) { return (a.K + kThreads - 1) / kThreads; }

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const int k = gpu.block() * kThreads + gpu.thread();
    if (k >= a.K) return;
    float absolute = a.starts ? 0.F : gpu.load_coherent(a.absolute + k);
    float largest = a.starts ? 0.F : gpu.load_coherent(a.largest + k);
    for (int first = 0; first < a.M; first += kTogether) {
      const int end = first + kTogether < a.M ? first + kTogether : a.M;
      float sum = 0.F;
      for (int m = first; m < end; ++m) {
        const float value = gpu.to_float(gpu.load(a.x + m * a.x_stride + k));
        const float size = value < 0.F ? -value : value;
        sum += size;
        largest = larger(largest, size);
      }
      absolute += sum;
    }
    gpu.store(a.absolute + k, absolute);
    gpu.store(a.largest + k, largest);
  }
};

}  // namespace nibble
