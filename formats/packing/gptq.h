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

// Checkpoints of version 1 store zero - 1. GPTQModel subtracts from whole words, so that a zero of
// 0 borrows from its neighbour, and adds it back likewise; its 3-bit fields wrap each by itself.
// Words without a zero of 0 are the same either way.
template <int kCodeBits>
NIBBLE_HD constexpr uint32_t gptq_word_from_v1(uint32_t word) {
  static_assert(32 % kCodeBits == 0);
  return word + 0xFFFFFFFFu / ((1u << kCodeBits) - 1);
}

// A single field, 1 to 2^bits - 1 -> what version 1 stores.
NIBBLE_HD constexpr uint8_t gptq_zero_to_v1(uint8_t zero) { return static_cast<uint8_t>(zero - 1); }
template <int kCodeBits>
NIBBLE_HD constexpr uint8_t gptq_zero_from_v1(uint8_t field) {
  return static_cast<uint8_t>((field + 1) & ((1 << kCodeBits) - 1));
}

}  // namespace nibble
