// The layout of Marlin's 4-bit weights (Frantar et al. 2024, arXiv 2408.11743; marlin/__init__.py).
// Page: formats/marlin.md. No checkpoint format of ours: kernels read it.
#pragma once

#include <cstdint>

#include "formats/packing/packing.h"
#include "formats/packing/tiled.h"

namespace nibble {

// B I32 [K / 16, 2 N]: what one thread of a warp needs for a 16 x 64 tile of the transposed matrix
// is one 16-byte load, for four mma instructions of 16 columns and 16 rows.
struct MarlinCodes {
  using Word = uint32_t;
  static constexpr int kBits = 4;
  static constexpr int kTileRows = 64, kTileColumns = 16;

  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t K) { return K / 16 * 2 * N; }
  NIBBLE_HD static constexpr int64_t tile_begin(int64_t n, int64_t k, int64_t N, int64_t /*K*/) {
    return k / 16 * 2 * N + n / 64 * 128;
  }
  NIBBLE_HD static constexpr BitSlice tile(int r, int c) {
    const int thread = r % 8 * 4 + c % 8 / 2;
    const int nibble = c % 2 * 4 + r % 16 / 8 * 2 + c / 8;
    return {4 * thread + r / 16, 4 * nibble, kBits, 0};
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t N, int64_t K) {
    return tiled_at<MarlinCodes>(n, k, N, K);
  }
};

// Where the scale of row n lies in a row of Marlin's scales F16 [K / group, N]: groups of columns
// permute 64 neighbours, one group for all columns 32.
NIBBLE_HD constexpr int64_t marlin_scale_place(int64_t n) {
  return n / 64 * 64 + n % 8 * 8 + n % 64 / 8;
}
NIBBLE_HD constexpr int64_t marlin_channel_scale_place(int64_t n) {
  const int64_t in_eight = n % 8;  // rows 2 i and 2 i + 1 of each of four eights are neighbours
  return n / 32 * 32 + in_eight / 2 * 8 + n % 32 / 8 * 2 + in_eight % 2;
}

}  // namespace nibble
