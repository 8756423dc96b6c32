// ReadWords: reads memory once and adds it up: the bandwidth that a kernel bound by its bytes can
// have at most, measured beside it. Eight 16-byte loads of a thread are under way at once.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

namespace nibble {

struct ReadWords {
  static constexpr int kThreads = 256;
  static constexpr int kBlocks = 4;  // on a multiprocessor at once
  static constexpr int kSharedBytes = 0;
  static constexpr int kLoads = 8;

  struct Arguments {
    const Words4* words = nullptr;  // [count]
    int64_t count = 0;
    uint32_t* sums = nullptr;  // [threads of all blocks], modulo 2^32
  };

  NIBBLE_DEVICE static uint32_t sum_of(const Words4& v) {
    return v.word[0] + v.word[1] + v.word[2] + v.word[3];
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const int64_t threads = static_cast<int64_t>(gpu.blocks()) * kThreads;
    const int64_t thread = static_cast<int64_t>(gpu.block()) * kThreads + gpu.thread();
    uint32_t sum = 0;
    int64_t i = thread;
    for (; i + (kLoads - 1) * threads < a.count; i += kLoads * threads) {
      Words4 loaded[kLoads];
      NIBBLE_UNROLL
      for (int j = 0; j < kLoads; ++j) loaded[j] = gpu.load_once(a.words + i + j * threads);
      NIBBLE_UNROLL
      for (int j = 0; j < kLoads; ++j) sum += sum_of(loaded[j]);
    }
    for (; i < a.count; i += threads) sum += sum_of(gpu.load_once(a.words + i));
    gpu.store(a.sums + thread, sum);
  }
};

}  // namespace nibble
