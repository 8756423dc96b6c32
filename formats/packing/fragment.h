// Run-time layouts of weights for the tensor cores: what one lane of a warp multiplies lies in its
// own 16-byte vectors, in the order in which it needs it. No file uses them; kernels/cuda reads
// them. Fragments: kernels/cuda/device.h, with g = lane / 4 and t = lane % 4.
//
// A tile has 64 rows, four fragments of 16. A lane owns, of each, rows g and g + 8, and a quarter
// of the tile's columns, which are neighbours: those of x that go with them are one 16-byte load.
// The tiles of 64 rows lie one after the other along K, so that a warp reads memory from its first
// byte to its last; a vector of all 32 lanes is 512 bytes. N and K are multiples of a tile: the
// rest is padding.
//
// Register r of a fragment holds row g + 8 (r % 2); r / 2 is the first or second half of the
// columns that the lane gives to one mma.
#pragma once

#include <cstdint>

#include "formats/packing/packing.h"
#include "formats/packing/tiled.h"

namespace nibble {

// What the layouts share. kStepColumns: of a lane in one mma.
template <int kCodeBits, int kColumns, int kStepColumns>
struct FragmentTile {
  using Word = uint32_t;
  static constexpr int kBits = kCodeBits;
  static constexpr int kTileRows = 64, kTileColumns = kColumns;
  static constexpr int kLaneColumns = kColumns / 4;
  static constexpr int kSteps = kLaneColumns / kStepColumns;
  static constexpr int kVectors = kTileRows * kTileColumns * kBits / (32 * 128);

  NIBBLE_HD static constexpr int64_t words(int64_t N, int64_t K) { return N * K / (32 / kBits); }
  NIBBLE_HD static constexpr int64_t tile_begin(int64_t n, int64_t k, int64_t /*N*/, int64_t K) {
    return (n / kTileRows * (K / kTileColumns) + k / kTileColumns) * kVectors * 128;
  }

  // Place of code (r, c) of a tile.
  struct Place {
    int lane;
    int step;      // which mma
    int fragment;  // which 16 rows
    int reg;
    int value;  // of the register
  };
  NIBBLE_HD static constexpr Place place(int r, int c) {
    const int within = c % kLaneColumns % kStepColumns;
    return {.lane = r % 8 * 4 + c / kLaneColumns,
            .step = c % kLaneColumns / kStepColumns,
            .fragment = r / 16,
            .reg = within / (kStepColumns / 2) * 2 + r % 16 / 8,
            .value = within % (kStepColumns / 2)};
  }
};

// 4 bits for mma of 16-bit floats, tiles of 32 columns: a vector is one step, a word one fragment.
// kApart: values 0 and 1 of register r are nibbles r and r + 4, so that one mask takes both into
// the halves of a word; else nibbles 2 r and 2 r + 1, for look-ups that take 16 bits.
template <bool kApart>
struct FragmentNibbles : FragmentTile<4, 32, 4> {
  NIBBLE_HD static constexpr BitSlice tile(int r, int c) {
    const Place p = place(r, c);
    const int nibble = kApart ? p.value * 4 + p.reg : p.reg * 2 + p.value;
    return {p.step * 128 + p.lane * 4 + p.fragment, nibble * 4, kBits, 0};
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t N, int64_t K) {
    return tiled_at<FragmentNibbles>(n, k, N, K);
  }
};

// 8 bits for mma of 16-bit floats, tiles of 32 columns: two words are one fragment, a word holds
// registers r and r + 1.
struct FragmentBytes : FragmentTile<8, 32, 4> {
  NIBBLE_HD static constexpr BitSlice tile(int r, int c) {
    const Place p = place(r, c);
    const int vector = p.step * 2 + p.fragment / 2;
    const int word = p.fragment % 2 * 2 + p.reg / 2;
    return {vector * 128 + p.lane * 4 + word, (p.reg % 2 * 2 + p.value) * 8, kBits, 0};
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t N, int64_t K) {
    return tiled_at<FragmentBytes>(n, k, N, K);
  }
};

// 8 bits for mma of 8-bit integers, tiles of 64 columns: a vector is one fragment, its words are
// the registers.
struct IntegerBytes : FragmentTile<8, 64, 8> {
  NIBBLE_HD static constexpr BitSlice tile(int r, int c) {
    const Place p = place(r, c);
    const int vector = p.step * 4 + p.fragment;
    return {vector * 128 + p.lane * 4 + p.reg, p.value * 8, kBits, 0};
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t N, int64_t K) {
    return tiled_at<IntegerBytes>(n, k, N, K);
  }
};

// 4 bits for the same: two words are one fragment; the low halves of a word's bytes are register r,
// the high halves r + 1.
struct IntegerNibbles : FragmentTile<4, 64, 8> {
  NIBBLE_HD static constexpr BitSlice tile(int r, int c) {
    const Place p = place(r, c);
    const int vector = p.step * 2 + p.fragment / 2;
    const int word = p.fragment % 2 * 2 + p.reg / 2;
    return {vector * 128 + p.lane * 4 + word, p.value * 8 + p.reg % 2 * 4, kBits, 0};
  }
  NIBBLE_HD static constexpr BitSlices at(int64_t n, int64_t k, int64_t N, int64_t K) {
    return tiled_at<IntegerNibbles>(n, k, N, K);
  }
};

// Where row n lies among the parameters of all rows for one group: the eight of a lane (rows g + 8
// i of its tile) are neighbours.
NIBBLE_HD constexpr int64_t fragment_row_place(int64_t n) {
  return n / 64 * 64 + n % 8 * 8 + n % 64 / 8;
}

}  // namespace nibble
