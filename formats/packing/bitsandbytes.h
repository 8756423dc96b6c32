// The layout of bitsandbytes' 4-bit weights. Page: formats/bitsandbytes.md.
#pragma once

#include "formats/packing/packing.h"

namespace nibble {

// weight U8 [ceil(N K / 2), 1]: the flattened matrix, two codes a byte, the first in the high half.
struct BitsandbytesCodes {
  using Word = uint8_t;
  static constexpr int kBits = 4;

  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t K) { return divide_up(N * K, 2); }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t /*N*/, int64_t K) {
    const int64_t i = n * K + k;
    return {{i / 2, i % 2 == 0 ? 4 : 0, kBits, 0}, {}};
  }
};

}  // namespace nibble
