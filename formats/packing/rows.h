// Row-wise run-time packing of 2, 3, 4 and 8 bit codes, for kernels that read every row of a matrix
// once, from its first byte to its last. No file uses it; codes of other widths are stored in the
// next wider one.
//
// A row is a sequence of tiles of 64-byte vectors of 16 words, and its columns are taken in chunks
// of 16. 2 and 4 bits: column 16 s + i of a tile is in word i at bit kBits * s, so that one shift
// of a vector moves the codes of 16 consecutive columns to bit 0 of its 16 lanes. 3 bits: three
// vectors hold 32 chunks; the low two bits of chunks 0-15 and 16-31 lie in the first and second as
// with 2 bits, the high bit of chunk s is bit s of the third. 8 bits: bytes in column order, a
// chunk is 16 bytes. Columns beyond K up to the end of the last tile are padding, code 0.
#pragma once

#include <cstdint>

#include "formats/packing/packing.h"

namespace nibble {

template <int kCodeBits>
struct Rows {
  static_assert(kCodeBits == 2 || kCodeBits == 3 || kCodeBits == 4 || kCodeBits == 8);
  using Word = uint32_t;
  static constexpr int kBits = kCodeBits;
  static constexpr int kChunk = 16;  // columns; also the words of a vector
  static constexpr int kTileWords = kBits == 3 ? 48 : 16;
  static constexpr int kTileColumns = kTileWords * 32 / kBits;  // 256, 512, 128, 64
  static constexpr int kTileChunks = kTileColumns / kChunk;

  NIBBLE_HD static constexpr int64_t row_tiles(int64_t K) { return divide_up(K, kTileColumns); }
  NIBBLE_HD static constexpr int64_t row_words(int64_t K) { return row_tiles(K) * kTileWords; }
  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t K) { return N * row_words(K); }

  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t /*N*/, int64_t K) {
    const int64_t tile = n * row_words(K) + k / kTileColumns * kTileWords;
    const int column = static_cast<int>(k % kTileColumns);
    const int chunk = column / kChunk;
    const int lane = column % kChunk;
    if constexpr (kBits == 8) {
      return {{tile + column / 4, column % 4 * 8, 8, 0}, {}};
    } else if constexpr (kBits == 3) {
      return {{tile + chunk / 16 * 16 + lane, chunk % 16 * 2, 2, 0},
              {tile + 32 + lane, chunk, 1, 2}};
    } else {
      return {{tile + lane, chunk * kBits, kBits, 0}, {}};
    }
  }
};

// Codes of one row, [row_tiles * kTileColumns], into its words, zero before. Host only.
template <typename P>
void pack_tiles(const uint8_t* codes, int64_t tiles, uint32_t* words) {
  const auto store = [words](const BitSlice& slice, const uint8_t* chunk) {
    const uint32_t mask = (uint32_t{1} << slice.width) - 1;
    for (int i = 0; i < P::kChunk; ++i) {
      words[slice.word + i] |= (uint32_t{chunk[i]} >> slice.lsb & mask) << slice.shift;
    }
  };
  const int64_t columns = tiles * P::kTileColumns;
  for (int64_t k = 0; k < columns; k += P::kBits == 8 ? 1 : P::kChunk) {
    if constexpr (P::kBits == 8) {
      store_code<P>(words, 0, k, 1, columns, codes[k]);
    } else {
      const BitSlices slices = P::at(0, k, 1, columns);
      store(slices.low, codes + k);
      if (slices.high.width > 0) store(slices.high, codes + k);
    }
  }
}

}  // namespace nibble
