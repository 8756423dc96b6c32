// EmbedTokens: rows of the token embedding, with learned positions added if there are any: x[t] =
// tokens[ids[t]] + positions[first_position + t mod window].
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/rows.h"

namespace nibble {

// T: of the tables: F16, BF16, float. A block has one token.
template <typename T>
struct EmbedTokens {
  static constexpr int kThreads = 128;
  static constexpr int kBlocks = 8;
  static constexpr int kSharedBytes = 0;

  struct Arguments {
    int n = 0;                     // columns, a multiple of 8
    const int32_t* ids = nullptr;  // [blocks]
    const T* tokens = nullptr;     // [vocabulary, n]
    const T* positions = nullptr;  // [context, n] or nullptr
    int first_position = 0;
    int window = 1;
    float* x = nullptr;  // [blocks, n]
  };

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const T* token = a.tokens + static_cast<int64_t>(gpu.load(a.ids + gpu.block())) * a.n;
    const int position = a.first_position + gpu.block() % a.window;
    for (int k = gpu.thread() * 8; k < a.n; k += kThreads * 8) {
      Floats8 x = load8(gpu, token + k);
      if (a.positions != nullptr) {
        const Floats8 p = load8(gpu, a.positions + static_cast<int64_t>(position) * a.n + k);
        NIBBLE_UNROLL
        for (int i = 0; i < 8; ++i) x.value[i] += p.value[i];
      }
      store8(gpu, a.x + static_cast<int64_t>(gpu.block()) * a.n + k, x);
    }
  }
};

}  // namespace nibble
