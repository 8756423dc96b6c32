// Layouts cut into tiles of rows x columns whose words are contiguous: those made for tensor cores
// (TinyChat, Marlin, QServe). Such a layout has, besides what packing.h asks for,
//   kTileRows, kTileColumns   of a tile; N and K are multiples
//   tile(r, c)                slice of code (r, c) of a tile, its words counted from the tile's
//   begin tile_begin(n, k, N, K)    word where the tile of code (n, k) begins
// and `at` follows from these.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "formats/packing/packing.h"

namespace nibble {

template <typename P>
concept TiledLayout = requires {
  P::kTileRows;
  P::kTileColumns;
};

// `at` of a tiled layout.
template <typename P>
NIBBLE_HD constexpr BitSlices tiled_at(int64_t n, int64_t k, int64_t N, int64_t K) {
  BitSlice slice =
      P::tile(static_cast<int>(n % P::kTileRows), static_cast<int>(k % P::kTileColumns));
  slice.word += P::tile_begin(n, k, N, K);
  return {slice, {}};
}

template <typename P>
inline constexpr int kTileWords = P::kTileRows* P::kTileColumns* P::kBits / kWordBits<P>;

// Slices of a tile's codes, row by row.
template <typename P>
constexpr auto tile_slices() {
  std::array<BitSlice, static_cast<size_t>(P::kTileRows) * P::kTileColumns> slices{};
  for (int r = 0; r < P::kTileRows; ++r) {
    for (int c = 0; c < P::kTileColumns; ++c) {
      slices[static_cast<size_t>(r) * P::kTileColumns + static_cast<size_t>(c)] = P::tile(r, c);
    }
  }
  return slices;
}

// visit(code of the matrix, word of the array, its shift) for rows [first, last), multiples of
// kTileRows. Host only.
template <typename P, typename Visit>
void for_tiled_codes(int64_t N, int64_t K, int64_t first, int64_t last, const Visit& visit) {
  static constexpr auto kSlices = tile_slices<P>();
  for (int64_t n = first; n < last; n += P::kTileRows) {
    for (int64_t k = 0; k < K; k += P::kTileColumns) {
      const int64_t begin = P::tile_begin(n, k, N, K);
      const BitSlice* slice = kSlices.data();
      for (int r = 0; r < P::kTileRows; ++r) {
        const int64_t row = (n + r) * K + k;
        for (int c = 0; c < P::kTileColumns; ++c, ++slice) {
          visit(row + c, begin + slice->word, slice->shift);
        }
      }
    }
  }
}

// Rows [first, last) of codes [N, K] into words that are zero.
template <typename P>
void pack_tiled(const uint8_t* codes, int64_t N, int64_t K, int64_t first, int64_t last,
                typename P::Word* words) {
  for_tiled_codes<P>(N, K, first, last, [&](int64_t code, int64_t word, int shift) {
    words[word] = static_cast<typename P::Word>(words[word] | uint32_t{codes[code]} << shift);
  });
}

template <typename P>
void unpack_tiled(const typename P::Word* words, int64_t N, int64_t K, int64_t first, int64_t last,
                  uint8_t* codes) {
  for_tiled_codes<P>(N, K, first, last, [&](int64_t code, int64_t word, int shift) {
    codes[code] =
        static_cast<uint8_t>(uint32_t{words[word]} >> shift & ((uint32_t{1} << P::kBits) - 1));
  });
}

}  // namespace nibble
