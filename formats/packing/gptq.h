// Layouts of GPTQ checkpoints. Page: formats/gptq.md.
#pragma once

#include "formats/packing/packing.h"

namespace nibble {

// qweight I32 [K * bits / 32, N]: a bit stream along K for every column n. K * bits is a multiple
// of 32.
template <int kCodeBits>
struct GptqWeights {
  using Word = uint32_t;
  static constexpr int kBits = kCodeBits;

  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t K) {
    return stream_words<Word, kBits>(K) * N;
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t N, int64_t /*K*/) {
    return stream_slices<Word, kBits>(k, n, N);
  }
};

// qzeros I32 [G, N * bits / 32]: a bit stream along N for every group. N * bits is a multiple
// of 32.
template <int kCodeBits>
struct GptqZeros {
  using Word = uint32_t;
  static constexpr int kBits = kCodeBits;

  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t G) {
    return stream_words<Word, kBits>(N) * G;
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t g, int64_t N, int64_t /*G*/) {
    return stream_slices<Word, kBits>(n, g * stream_words<Word, kBits>(N), 1);
  }
};

}  // namespace nibble
