// IntegerProduct: weights and activations in 8-bit integers, for TokenTiles. Sums are exact in
// int32 for K up to 65,536; scales of the row and of the token come last:
//   y[t, n] = token_scale[t] row_scale[n] sum_k q[t, k] w[n, k]
// W8A8 reads 67 MB for 8192 x 8192 (14 us at 4.8 TB/s), W4A8 half of that.
#pragma once

#include <cstdint>

#include "formats/packing/fragment.h"
#include "kernels/cuda/arguments.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/parameters.h"

namespace nibble {

// Signed bytes as they are.
struct ByteWeights {
  using Layout = IntegerBytes;
  struct Parameters {};
  struct Rows {};

  template <typename Gpu>
  NIBBLE_DEVICE static Parameters parameters(const Gpu& /*gpu*/, const LayerParameters& /*p*/,
                                             int /*row*/, int /*column*/) {
    return {};
  }
  NIBBLE_DEVICE static Rows rows(const Parameters& /*parameters*/, int /*j*/) { return {}; }
  template <typename Gpu>
  NIBBLE_DEVICE static void fragment(const Gpu& /*gpu*/, const Words4* vectors, int step, int j,
                                     const Rows& /*rows*/, uint32_t (&out)[4]) {
    NIBBLE_UNROLL
    for (int r = 0; r < 4; ++r) out[r] = vectors[step * 4 + j].word[r];
  }
};

// 4 bits, w = (code - zero) * scale of a group, an 8-bit integer (progressive groups,
// src/quantized/second_level.h). Four at once: code * scale + (128 - zero * scale) is 0 to 255 in
// each byte, so that one multiplication of the word needs no carries to be cut, and flipping the
// high bits takes 128 away (LiquidGEMM, 2025, arXiv 2509.01229).
struct NibbleWeights {
  using Layout = IntegerNibbles;
  using Parameters = RawParameters;
  struct Rows {
    uint32_t scale[2];
    uint32_t offset[2];
  };

  template <typename Gpu>
  NIBBLE_DEVICE static Parameters parameters(const Gpu& gpu, const LayerParameters& p, int row,
                                             int column) {
    return load_parameters(gpu, p, row, column / p.group);
  }
  NIBBLE_DEVICE static Rows rows(const Parameters& parameters, int j) {
    Rows result{};
    NIBBLE_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int i = 2 * j + h;
      const uint32_t scale = parameters.scale[i / 4] >> 8 * (i % 4) & 0xff;
      const uint32_t zero = parameters.zero[i / 4] >> 8 * (i % 4) & 0xff;
      result.scale[h] = scale;
      result.offset[h] = (128U - zero * scale) * 0x01010101U;
    }
    return result;
  }
  template <typename Gpu>
  NIBBLE_DEVICE static void fragment(const Gpu& /*gpu*/, const Words4* vectors, int step, int j,
                                     const Rows& rows, uint32_t (&out)[4]) {
    NIBBLE_UNROLL
    for (int r = 0; r < 4; ++r) {
      const uint32_t word = vectors[step * 2 + j / 2].word[j % 2 * 2 + r / 2];
      const uint32_t codes = word >> 4 * (r % 2) & 0x0f0f0f0fU;
      out[r] = (codes * rows.scale[r % 2] + rows.offset[r % 2]) ^ 0x80808080U;
    }
  }
};

// Weights: one of these. T: F16, BF16, of the output.
template <typename Weights, typename T>
struct IntegerProduct {
  using Arguments = LinearArguments<int8_t, T>;
  using Layout = typename Weights::Layout;
  using Sum = int32_t;
  using Parameters = typename Weights::Parameters;

  template <typename Gpu>
  NIBBLE_DEVICE static Parameters parameters(const Gpu& gpu, const Arguments& a, int row,
                                             int column) {
    return Weights::parameters(gpu, a.parameters, row, column);
  }
  template <typename Gpu>
  NIBBLE_DEVICE static auto rows(const Gpu& /*gpu*/, const Arguments& /*a*/,
                                 const Parameters& parameters, int /*row*/, int /*column*/, int j) {
    return Weights::rows(parameters, j);
  }
  template <typename Gpu>
  NIBBLE_DEVICE static void fragment(const Gpu& gpu, const Arguments& /*a*/, const Words4* vectors,
                                     int step, int j, const typename Weights::Rows& rows,
                                     uint32_t (&out)[4]) {
    Weights::fragment(gpu, vectors, step, j, rows, out);
  }
  template <typename Gpu>
  NIBBLE_DEVICE static void mma(const Gpu& gpu, int32_t (&d)[4], const uint32_t (&a)[4],
                                const uint32_t (&b)[2]) {
    gpu.mma(d, a, b);
  }
  template <typename Gpu>
  NIBBLE_DEVICE static void store(const Gpu& gpu, const Arguments& a, int m, int n, int32_t sum) {
    if (m >= a.M || n >= a.N) return;
    const float scale = gpu.load(a.token_scale + m) * gpu.load(a.row_scale + n);
    store_output(gpu, a, m, n, static_cast<float>(sum) * scale);
  }
};

}  // namespace nibble
