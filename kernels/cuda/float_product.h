// FloatProduct: weights of 4 or 8 bits with 16-bit activations, for TokenTiles. Scales and zero
// points go into the weights, in 16 bits: sums of a group beside the sums of all would not fit in
// the registers. That costs what rounding weights to 16 bits costs: half an ulp, three times.
#pragma once

#include <cstdint>

#include "kernels/cuda/arguments.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/parameters.h"

namespace nibble {

// Weights: weights.h. T: F16, BF16.
template <typename Weights, typename T>
struct FloatProduct {
  using Arguments = LinearArguments<T>;
  using Layout = typename Weights::Layout;
  using Sum = float;
  using Parameters = RawParameters;

  template <typename Gpu>
  NIBBLE_DEVICE static Parameters parameters(const Gpu& gpu, const Arguments& a, int row,
                                             int column) {
    return load_parameters(gpu, a.parameters, row, column / a.parameters.group);
  }

  // The scale twice, and what takes the zero point away twice, for rows g and g + 8.
  struct Rows {
    uint32_t scale[2];
    uint32_t offset[2];
  };
  template <typename Gpu>
  NIBBLE_DEVICE static Rows rows(const Gpu& gpu, const Arguments& a, const Parameters& parameters,
                                 int row, int column, int j) {
    Rows result;
    NIBBLE_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int group = column / a.parameters.group;
      const float scale = scale_of(gpu, a.parameters, parameters, row, group, 2 * j + h);
      const float offset = -zero_point(parameters, 2 * j + h) * scale;
      result.scale[h] = gpu.round2(T{}, scale, scale);
      result.offset[h] = gpu.round2(T{}, offset, offset);
    }
    return result;
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void fragment(const Gpu& gpu, const Arguments& a, const Words4* vectors,
                                     int step, int j, const Rows& rows, uint32_t (&out)[4]) {
    Weights::fragment(gpu, T{}, vectors, step, j, a.levels, out);
    NIBBLE_UNROLL
    for (int r = 0; r < 4; ++r) {
      out[r] = gpu.fma2(T{}, out[r], rows.scale[r % 2], rows.offset[r % 2]);
    }
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void mma(const Gpu& gpu, float (&d)[4], const uint32_t (&a)[4],
                                const uint32_t (&b)[2]) {
    gpu.mma(T{}, d, a, b);
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void store(const Gpu& gpu, const Arguments& a, int m, int n, float sum) {
    store_output(gpu, a, m, n, sum);
  }
};

}  // namespace nibble
