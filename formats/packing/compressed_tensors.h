// Layouts of compressed-tensors' pack-quantized. Page: formats/compressed_tensors.md.
//
// Zero points are stored as a matrix [N, G], so K below is G for them.
#pragma once

#include "formats/packing/row_stream.h"

namespace nibble {

// weight_packed I32 [N, ceil(K * bits / 32)], a bit stream: 2, 4 and 8 bits of every release, 3
// bits of those since 2026.
template <int kCodeBits>
using CompressedTensorsWeights = RowStream<uint32_t, kCodeBits>;

// weight_packed I32 [N, ceil(K / (32 / bits))] of releases before 2026: no code straddles, at 3
// bits ten codes a word and its two high bits unused.
template <int kCodeBits>
struct CompressedTensorsPaddedWeights {
  using Word = uint32_t;
  static constexpr int kBits = kCodeBits;
  static constexpr int kPerWord = 32 / kBits;

  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t K) {
    return N * divide_up(K, kPerWord);
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t /*N*/, int64_t K) {
    const int64_t word = n * divide_up(K, kPerWord) + k / kPerWord;
    return {{word, static_cast<int>(k % kPerWord) * kBits, kBits, 0}, {}};
  }
};

// weight_zero_point I32 [ceil(N * bits / 32), G], a bit stream along N for every group.
template <int kCodeBits>
struct CompressedTensorsZeros {
  using Word = uint32_t;
  static constexpr int kBits = kCodeBits;

  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t G) {
    return stream_words<Word, kBits>(N) * G;
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t g, int64_t /*N*/, int64_t G) {
    return stream_slices<Word, kBits>(n, g, G);
  }
};

// weight_zero_point I32 [ceil(N / (32 / bits)), G] of releases before 2026.
template <int kCodeBits>
struct CompressedTensorsPaddedZeros {
  using Word = uint32_t;
  static constexpr int kBits = kCodeBits;
  static constexpr int kPerWord = 32 / kBits;

  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t G) {
    return divide_up(N, kPerWord) * G;
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t g, int64_t /*N*/, int64_t G) {
    return {{n / kPerWord * G + g, static_cast<int>(n % kPerWord) * kBits, kBits, 0}, {}};
  }
};

}  // namespace nibble
