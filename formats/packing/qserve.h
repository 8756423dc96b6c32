// The layouts of QServe's W4A8 weights (Lin et al. 2024, arXiv 2405.04532). Page:
// formats/qserve.md. No checkpoint format of ours: kernels read them.
#pragma once

#include <cstdint>

#include "formats/packing/packing.h"
#include "formats/packing/tiled.h"

namespace nibble {

// qweight I8 [N, K / 2]: tiles of 32 rows x 32 columns, 512 bytes each; a byte holds rows 16 apart,
// so that a thread gets the operands of its 8-bit mma by two masks and a shift.
struct QserveCodes {
  using Word = uint8_t;
  static constexpr int kBits = 4;
  static constexpr int kTileRows = 32, kTileColumns = 32;

  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t K) { return N * K / 2; }
  NIBBLE_HD static constexpr int64_t tile_begin(int64_t n, int64_t k, int64_t /*N*/, int64_t K) {
    return (n / 32 * (K / 32) + k / 32) * 512;
  }
  NIBBLE_HD static constexpr BitSlice tile(int r, int c) {
    const int byte = r % 8 * 64 + c % 16 / 4 * 16 + c / 16 * 8 + r % 16 / 8 * 4 + c % 4;
    return {byte, r / 16 * 4, kBits, 0};
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t N, int64_t K) {
    return tiled_at<QserveCodes>(n, k, N, K);
  }
};

// Where row n lies in a row of s2_scales and s2_zeros I8 [K / group, N]: 32 neighbours permuted.
NIBBLE_HD constexpr int64_t qserve_scale_place(int64_t n) {
  return n / 32 * 32 + n % 8 * 4 + n % 32 / 8;
}

}  // namespace nibble
