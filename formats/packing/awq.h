// The layout of AWQ "gemm" checkpoints. Page: formats/awq.md.
#pragma once

#include "formats/packing/packing.h"
#include "formats/packing/row_stream.h"

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

// "gemv": qweight I32 [N, K / 8] and, with G for K, qzeros, in natural order along the row.
using AwqGemvCodes = RowStream<uint32_t, 4>;

// Words of a row of "gemv"'s qzeros: 8 of the G groups each, rounded up to a multiple that grows as
// groups get smaller. Scales of "gemv" and "gemv_fast" have 8 values for each; beyond G all is
// zero.
NIBBLE_HD constexpr int64_t awq_zeros_width(int64_t G, int64_t group_size) {
  const int64_t multiple = group_size >= 128 ? 1 : group_size == 64 ? 2 : 4;
  return divide_up(divide_up(G, 8), multiple) * multiple;
}

}  // namespace nibble
