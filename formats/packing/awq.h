// The layout of AWQ "gemm" checkpoints. Page: formats/awq.md.
#pragma once

#include "formats/packing/packing.h"

namespace nibble {

// qweight I32 [K, N / 8] and, with G for K, qzeros: eight outputs a word, interleaved. N is a
// multiple of 8.
struct AwqCodes {
  using Word = uint32_t;
  static constexpr int kBits = 4;

  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t K) { return K * (N / 8); }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t N, int64_t /*K*/) {
    // Even outputs in the low half of the word, odd ones in the high half.
    const int nibble = static_cast<int>(n % 8 / 2 + n % 2 * 4);
    return {{k * (N / 8) + n / 8, 4 * nibble, kBits, 0}, {}};
  }
};

}  // namespace nibble
