// Scales and zero points of a packed layer as a lane reads them: those of its eight rows of a tile
// for one group, in one or two loads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"

namespace nibble {

enum class ScaleKind : int32_t {
  kF16,
  kBF16,
  kF32,
  kMapped,  // U8: map[stored] * second[(n * groups + g) / 256] + offset
};

// Arrays of parameters are [groups, padded N], rows in the order of fragment_row_place.
struct LayerParameters {
  ScaleKind kind = ScaleKind::kF16;
  const void* scale = nullptr;
  const int8_t* zero = nullptr;  // zero point minus kCentre of the weights; nullptr: all 0
  const float* map = nullptr;    // [256]
  const float* second = nullptr;
  float offset = 0.F;
  int group = 0;  // columns, a multiple of 32; at least K: one group
  int groups = 0;
  int padded_rows = 0;
};

// As loaded, so that loads can run ahead of their use.
struct RawParameters {
  uint32_t scale[4];  // 8 of 16 bits, 8 of 8 bits, or 4 of 32
  uint32_t zero[2];
};

// Of the lane's first row for a group.
template <typename Gpu>
NIBBLE_DEVICE int64_t parameter_index(const Gpu& gpu, const LayerParameters& p, int tile_row,
                                      int group) {
  return static_cast<int64_t>(group) * p.padded_rows + tile_row + gpu.thread() % kWarpLanes / 4 * 8;
}

// tile_row: first row of the tile.
template <typename Gpu>
NIBBLE_DEVICE RawParameters load_parameters(const Gpu& gpu, const LayerParameters& p, int tile_row,
                                            int group) {
  const int64_t at = parameter_index(gpu, p, tile_row, group);
  RawParameters raw{};
  if (p.kind == ScaleKind::kMapped) {
    const uint64_t codes =
        gpu.load(reinterpret_cast<const uint64_t*>(static_cast<const uint8_t*>(p.scale) + at));
    raw.scale[0] = static_cast<uint32_t>(codes);
    raw.scale[1] = static_cast<uint32_t>(codes >> 32);
  } else {
    const auto* scales = static_cast<const std::byte*>(p.scale);
    const Words4 words = gpu.load(
        reinterpret_cast<const Words4*>(scales + (p.kind == ScaleKind::kF32 ? 4 : 2) * at));
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

// scale[i]: of row g + 8 i of the tile. Look-ups, and the second half of 32-bit scales,
// are loaded here: they are the exception, or in the cache.
template <typename Gpu>
NIBBLE_DEVICE void decode_scales(const Gpu& gpu, const LayerParameters& p, const RawParameters& raw,
                                 int tile_row, int group, float (&scale)[8]) {
  if (p.kind == ScaleKind::kMapped) {
    NIBBLE_UNROLL
    for (int i = 0; i < 8; ++i) {
      const uint32_t code = raw.scale[i / 4] >> 8 * (i % 4) & 0xff;
      const int n = tile_row + gpu.thread() % kWarpLanes / 4 + 8 * i;
      const auto index =
          static_cast<uint32_t>(n) * static_cast<uint32_t>(p.groups) + static_cast<uint32_t>(group);
      scale[i] = gpu.load(p.map + code) * gpu.load(p.second + index / 256) + p.offset;
    }
  } else if (p.kind == ScaleKind::kF32) {
    const int64_t at = parameter_index(gpu, p, tile_row, group);
    const Words4 more =
        gpu.load(reinterpret_cast<const Words4*>(static_cast<const float*>(p.scale) + at + 4));
    NIBBLE_UNROLL
    for (int i = 0; i < 4; ++i) {
      scale[i] = gpu.bits_to_float(raw.scale[i]);
      scale[4 + i] = gpu.bits_to_float(more.word[i]);
    }
  } else {
    NIBBLE_UNROLL
    for (int i = 0; i < 8; ++i) {
      const auto half = static_cast<uint16_t>(raw.scale[i / 2] >> 16 * (i % 2));
      scale[i] = p.kind == ScaleKind::kF16 ? gpu.to_float(F16{half}) : gpu.to_float(BF16{half});
    }
  }
}

// Of row g + 8 i.
NIBBLE_DEVICE float zero_point(const RawParameters& raw, int i) {
  return static_cast<float>(static_cast<int8_t>(raw.zero[i / 4] >> 8 * (i % 4)));
}

}  // namespace nibble
