// Packing and unpacking whole matrices of codes, U8 [N, K], one code a byte.
//
// Which fast path a layout takes, and its shifts, are read off `at` at compile time; a layout that
// fits none is handled code by code. Host only.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "formats/packing/bit_stream.h"
#include "formats/packing/packing.h"
#include "formats/packing/tiled.h"

namespace nibble {

constexpr bool same_slices(const BitSlices& a, const BitSlices& b) {
  const auto same = [](const BitSlice& x, const BitSlice& y) {
    return x.width == y.width &&
           (x.width == 0 || (x.word == y.word && x.shift == y.shift && x.lsb == y.lsb));
  };
  return same(a.low, b.low) && same(a.high, b.high);
}

// Every row is a bit stream along K, one row after the other.
template <typename P>
constexpr bool is_row_stream() {
  using Word = typename P::Word;
  constexpr int64_t N = 3, K = 70;
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) {
      const int64_t first = n * stream_words<Word, P::kBits>(K);
      if (!same_slices(P::at(n, k, N, K), stream_slices<Word, P::kBits>(k, first, 1))) return false;
    }
  }
  return true;
}

// Every row is a bit stream along K; the array [words of a row, N] is the transpose of such rows.
template <typename P>
constexpr bool is_transposed_row_stream() {
  using Word = typename P::Word;
  constexpr int64_t N = 5, K = 96;
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) {
      if (!same_slices(P::at(n, k, N, K), stream_slices<Word, P::kBits>(k, n, N))) return false;
    }
  }
  return sizeof(Word) == 4;
}

template <typename P>
inline constexpr int64_t kCodesPerWord = kWordBits<P> / P::kBits;

// Shifts of the rows that share a word.
template <typename P>
constexpr auto row_shifts() {
  std::array<int, kCodesPerWord<P>> shifts{};
  for (int64_t n = 0; n < kCodesPerWord<P>; ++n) {
    shifts[n] = P::at(n, 0, kCodesPerWord<P>, 1).low.shift;
  }
  return shifts;
}

// A word holds neighbouring rows of one column; the array is [K, N / codes per word].
template <typename P>
constexpr bool packs_rows_into_words() {
  constexpr int64_t kPerWord = kCodesPerWord<P>;
  constexpr int64_t N = 3 * kPerWord, K = 5;
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) {
      const BitSlice expected{k * (N / kPerWord) + n / kPerWord, row_shifts<P>()[n % kPerWord],
                              P::kBits, 0};
      if (!same_slices(P::at(n, k, N, K), {expected, {}})) return false;
    }
  }
  return sizeof(typename P::Word) == 4;
}

// Threads may pack ranges of rows that begin at multiples of this; 0: only the whole matrix, since
// rows share words.
template <typename P>
constexpr int64_t row_multiple() {
  if constexpr (TiledLayout<P>) return P::kTileRows;
  if (is_row_stream<P>() || is_transposed_row_stream<P>()) return 1;
  return packs_rows_into_words<P>() ? kCodesPerWord<P> : 0;
}

// Words are packed in a tile in the cache, where each of up to 16 neighbours (a cache line) has its
// own run of lines, and moved to or from the array, whose lines begin `stride` words apart.
inline constexpr int64_t kPackingTileWords = 16;
inline constexpr int64_t kPackingTileLines = 64;
using PackingTile = std::array<std::array<uint32_t, kPackingTileLines>, kPackingTileWords>;

inline void store_tile(const PackingTile& tile, int64_t words, int64_t lines, int64_t stride,
                       uint32_t* out) {
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t word = 0; word < words; ++word) out[line * stride + word] = tile[word][line];
  }
}

inline void load_tile(const uint32_t* in, int64_t words, int64_t lines, int64_t stride,
                      PackingTile& tile) {
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t word = 0; word < words; ++word) tile[word][line] = in[line * stride + word];
  }
}

// visit(row, rows, k, columns, line): tiles of whole runs of 32 columns, which begin at words.
template <int kBits, typename Visit>
void for_stream_tiles(int64_t K, int64_t first, int64_t last, const Visit& visit) {
  constexpr int64_t kColumns = kPackingTileLines / kBits * 32;
  for (int64_t row = first; row < last; row += kPackingTileWords) {
    for (int64_t k = 0; k < K; k += kColumns) {
      visit(row, std::min(kPackingTileWords, last - row), k, std::min(kColumns, K - k),
            k / 32 * kBits);
    }
  }
}

template <int kBits>
void pack_transposed(const uint8_t* codes, int64_t N, int64_t K, int64_t first, int64_t last,
                     uint32_t* words) {
  for_stream_tiles<kBits>(
      K, first, last, [&](int64_t row, int64_t rows, int64_t k, int64_t columns, int64_t line) {
        PackingTile tile{};
        for (int64_t r = 0; r < rows; ++r) {
          pack_stream<kBits>(codes + (row + r) * K + k, columns,
                             reinterpret_cast<std::byte*>(tile[r].data()));
        }
        store_tile(tile, rows, stream_words<uint32_t, kBits>(columns), N, words + line * N + row);
      });
}

template <int kBits>
void unpack_transposed(const uint32_t* words, int64_t N, int64_t K, int64_t first, int64_t last,
                       uint8_t* codes) {
  for_stream_tiles<kBits>(
      K, first, last, [&](int64_t row, int64_t rows, int64_t k, int64_t columns, int64_t line) {
        PackingTile tile;
        load_tile(words + line * N + row, rows, stream_words<uint32_t, kBits>(columns), N, tile);
        for (int64_t r = 0; r < rows; ++r) {
          unpack_stream<kBits>(reinterpret_cast<const std::byte*>(tile[r].data()), columns,
                               codes + (row + r) * K + k);
        }
      });
}

// visit(word, words, k, columns): word counts along a line of the array.
template <typename P, typename Visit>
void for_word_tiles(int64_t K, int64_t first, int64_t last, const Visit& visit) {
  const int64_t last_word = last / kCodesPerWord<P>;
  for (int64_t word = first / kCodesPerWord<P>; word < last_word; word += kPackingTileWords) {
    for (int64_t k = 0; k < K; k += kPackingTileLines) {
      visit(word, std::min(kPackingTileWords, last_word - word), k,
            std::min(kPackingTileLines, K - k));
    }
  }
}

// One step of the loops below per row of a word, with its shift as a constant.
template <typename P, typename Step>
void for_rows_of_word(const Step& step) {
  [&]<size_t... kRow>(std::index_sequence<kRow...>) {
    (step(std::integral_constant<int, row_shifts<P>()[kRow]>{}, int64_t{kRow}), ...);
  }
  (std::make_index_sequence<kCodesPerWord<P>>{});
}

template <typename P>
void pack_words(const uint8_t* codes, int64_t N, int64_t K, int64_t first, int64_t last,
                uint32_t* words) {
  const int64_t line_words = N / kCodesPerWord<P>;
  for_word_tiles<P>(K, first, last, [&](int64_t word, int64_t count, int64_t k, int64_t columns) {
    PackingTile tile{};
    for (int64_t w = 0; w < count; ++w) {
      const uint8_t* rows = codes + (word + w) * kCodesPerWord<P> * K + k;
      for (int64_t c = 0; c < columns; ++c) {
        uint32_t value = 0;
        for_rows_of_word<P>(
            [&](auto shift, int64_t r) { value |= uint32_t{rows[r * K + c]} << shift; });
        tile[w][c] = value;
      }
    }
    store_tile(tile, count, columns, line_words, words + k * line_words + word);
  });
}

template <typename P>
void unpack_words(const uint32_t* words, int64_t N, int64_t K, int64_t first, int64_t last,
                  uint8_t* codes) {
  const int64_t line_words = N / kCodesPerWord<P>;
  for_word_tiles<P>(K, first, last, [&](int64_t word, int64_t count, int64_t k, int64_t columns) {
    PackingTile tile;
    load_tile(words + k * line_words + word, count, columns, line_words, tile);
    for (int64_t w = 0; w < count; ++w) {
      uint8_t* rows = codes + (word + w) * kCodesPerWord<P> * K + k;
      for_rows_of_word<P>([&](auto shift, int64_t r) {
        for (int64_t c = 0; c < columns; ++c) {
          rows[r * K + c] = static_cast<uint8_t>(tile[w][c] >> shift & ((1u << P::kBits) - 1));
        }
      });
    }
  });
}

// Rows [first, last) of codes [N, K], each below 2^bits, into the array of words(N, K) words, zero
// before the first call.
template <typename P>
void pack_rows(const uint8_t* codes, int64_t N, int64_t K, int64_t first, int64_t last,
               typename P::Word* words) {
  if constexpr (TiledLayout<P>) {
    pack_tiled<P>(codes, N, K, first, last, words);
  } else if constexpr (is_row_stream<P>()) {
    const int64_t row_words = P::words(1, K);
    for (int64_t n = first; n < last; ++n) {
      pack_stream<P::kBits>(codes + n * K, K, reinterpret_cast<std::byte*>(words + n * row_words));
    }
  } else if constexpr (is_transposed_row_stream<P>()) {
    pack_transposed<P::kBits>(codes, N, K, first, last, words);
  } else if constexpr (packs_rows_into_words<P>()) {
    pack_words<P>(codes, N, K, first, last, words);
  } else {
    for (int64_t n = first; n < last; ++n) {
      for (int64_t k = 0; k < K; ++k) store_code<P>(words, n, k, N, K, codes[n * K + k]);
    }
  }
}

// The inverse.
template <typename P>
void unpack_rows(const typename P::Word* words, int64_t N, int64_t K, int64_t first, int64_t last,
                 uint8_t* codes) {
  if constexpr (TiledLayout<P>) {
    unpack_tiled<P>(words, N, K, first, last, codes);
  } else if constexpr (is_row_stream<P>()) {
    const int64_t row_words = P::words(1, K);
    for (int64_t n = first; n < last; ++n) {
      unpack_stream<P::kBits>(reinterpret_cast<const std::byte*>(words + n * row_words), K,
                              codes + n * K);
    }
  } else if constexpr (is_transposed_row_stream<P>()) {
    unpack_transposed<P::kBits>(words, N, K, first, last, codes);
  } else if constexpr (packs_rows_into_words<P>()) {
    unpack_words<P>(words, N, K, first, last, codes);
  } else {
    for (int64_t n = first; n < last; ++n) {
      for (int64_t k = 0; k < K; ++k) codes[n * K + k] = load_code<P>(words, n, k, N, K);
    }
  }
}

}  // namespace nibble
