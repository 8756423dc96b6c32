// Scales and zero points of a packed layer as a lane reads them: those of its eight rows of a tile
// for one group, in one or two loads.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

namespace nibble {

enum class ScaleKind : int32_t {
  kF16,
  kBF16,
  kF32,
  kMapped,  // U8: map[stored] * second[(n * groups + g) / 256] + offset
  kI8,      // integers, for IntegerProduct
};

// Arrays of parameters are [groups, padded N], rows in the order of fragment_row_place.
struct LayerParameters {
  ScaleKind kind = ScaleKind::kF16;
  const void* scale = nullptr;
  const int8_t* zero = nullptr;  // zero point minus kCentre of 16-bit weights; nullptr: all 0
  const float* map = nullptr;    // [256]
  const float* second = nullptr;
  float offset = 0.F;
  int group = 0;  // columns, a multiple of 32; at least K: one group
  int groups = 0;
  int padded_rows = 0;
};

// As loaded, so that loads can run ahead of their use: 8 scales of 16 or 8 bits. Those of 32 bits
// are loaded when they are used.
struct RawParameters {
  uint32_t scale[4];
  uint32_t zero[2];
};

// Of the lane's first row for a group. tile_row: first row of the tile.
template <typename Gpu>
NIBBLE_DEVICE int64_t parameter_index(const Gpu& gpu, const LayerParameters& p, int tile_row,
                                      int group) {
  return static_cast<int64_t>(group) * p.padded_rows + tile_row + gpu.thread() % kWarpLanes / 4 * 8;
}

template <typename Gpu>
NIBBLE_DEVICE RawParameters load_parameters(const Gpu& gpu, const LayerParameters& p, int tile_row,
                                            int group) {
  const int64_t at = parameter_index(gpu, p, tile_row, group);
  RawParameters raw{};
  if (p.kind == ScaleKind::kMapped || p.kind == ScaleKind::kI8) {
    const uint64_t codes =
        gpu.load(reinterpret_cast<const uint64_t*>(static_cast<const uint8_t*>(p.scale) + at));
    raw.scale[0] = static_cast<uint32_t>(codes);
    raw.scale[1] = static_cast<uint32_t>(codes >> 32);
  } else if (p.kind != ScaleKind::kF32) {
    const Words4 words =
        gpu.load(reinterpret_cast<const Words4*>(static_cast<const uint16_t*>(p.scale) + at));
    NIBBLE_UNROLL
    for (int i = 0; i < 4; ++i) raw.scale[i] = words.word[i];
  }
  if (p.zero != nullptr) {
    const uint64_t zeros = gpu.load(reinterpret_cast<const uint64_t*>(p.zero + at));
    raw.zero[0] = static_cast<uint32_t>(zeros);
    raw.zero[1] = static_cast<uint32_t>(zeros >> 32);
  }
  return raw;
}

// Of row g + 8 i of the tile.
template <typename Gpu>
NIBBLE_DEVICE float scale_of(const Gpu& gpu, const LayerParameters& p, const RawParameters& raw,
                             int tile_row, int group, int i) {
  if (p.kind == ScaleKind::kMapped) {
    const uint32_t code = raw.scale[i / 4] >> 8 * (i % 4) & 0xff;
    const int n = tile_row + gpu.thread() % kWarpLanes / 4 + 8 * i;
    const auto index =
        static_cast<uint32_t>(n) * static_cast<uint32_t>(p.groups) + static_cast<uint32_t>(group);
    return gpu.load(p.map + code) * gpu.load(p.second + index / 256) + p.offset;
  }
  if (p.kind == ScaleKind::kF32) {
    return gpu.load(static_cast<const float*>(p.scale) + parameter_index(gpu, p, tile_row, group) +
                    i);
  }
  const auto half = static_cast<uint16_t>(raw.scale[i / 2] >> 16 * (i % 2));
  return p.kind == ScaleKind::kF16 ? gpu.to_float(F16{half}) : gpu.to_float(BF16{half});
}

// Of row g + 8 i.
NIBBLE_DEVICE float zero_point(const RawParameters& raw, int i) {
  return static_cast<float>(static_cast<int8_t>(raw.zero[i / 4] >> 8 * (i % 4)));
}

}  // namespace nibble
