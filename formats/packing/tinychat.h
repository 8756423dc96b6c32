// The interleaved layout of TinyChat (llm-awq's second version), AutoAWQ's "gemv_fast". Page:
// formats/tinychat.md.
#pragma once

#include <cstdint>

#include "formats/packing/packing.h"
#include "formats/packing/tiled.h"

namespace nibble {

// qweight I16 [N / 4, K]: four rows alternate, 64 columns of each; a word holds columns that are 8
// apart, so that 32 columns come out of 16 bytes in the order in which a kernel multiplies them.
struct TinychatCodes {
  using Word = uint16_t;
  static constexpr int kBits = 4;
  static constexpr int kTileRows = 4, kTileColumns = 64;

  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t K) { return N / 4 * K; }
  NIBBLE_HD static constexpr int64_t tile_begin(int64_t n, int64_t k, int64_t /*N*/, int64_t K) {
    return n / 4 * K + k / 64 * 64;
  }
  NIBBLE_HD static constexpr BitSlice tile(int r, int c) {
    return {16 * r + c / 32 * 8 + c % 8, c % 32 / 8 * 4, kBits, 0};
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t N, int64_t K) {
    return tiled_at<TinychatCodes>(n, k, N, K);
  }
};

}  // namespace nibble
