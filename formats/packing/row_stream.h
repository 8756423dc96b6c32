// Rows as LSB-first bit streams along K, each beginning at a word: compressed-tensors'
// weight_packed (32-bit words) and the codes of our own format (bytes).
#pragma once

#include "formats/packing/packing.h"

namespace nibble {

// Array [N, ceil(K * bits / bits of a word)].
template <typename WordType, int kCodeBits>
struct RowStream {
  using Word = WordType;
  static constexpr int kBits = kCodeBits;

  NIBBLE_HD static constexpr int64_t row_words(int64_t K) { return stream_words<Word, kBits>(K); }
  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t K) { return N * row_words(K); }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t /*N*/, int64_t K) {
    return stream_slices<Word, kBits>(k, n * row_words(K), 1);
  }
};

}  // namespace nibble
