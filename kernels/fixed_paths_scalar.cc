// Plain integer loops: the specification.
#include <cstdint>

#include "kernels/fixed_paths.h"
#include "kernels/row_paths.h"

namespace nibble {
namespace {

float round_group(const float* x, int64_t n, int16_t* q) { return round_fixed_group(x, n, q); }

void multiply(const FixedTile& tile) {
  for (int64_t t = 0; t < tile.rows; ++t) {
    const int16_t* x = tile.x + t * kFixedGroup;
    float* y = tile.y + t * tile.y_stride;
    for (int64_t n = 0; n < kPanelWidth; ++n) {
      int32_t sum = 0;
      for (int64_t k = 0; k < 2 * tile.pairs; ++k) {
        sum += int32_t{x[k]} * int32_t{tile.w[(k / 2 * kPanelWidth + n) * 2 + k % 2]};
      }
      const float product = static_cast<float>(sum) * tile.w_scale[n] * tile.x_scale[t];
      y[n] = tile.accumulate ? y[n] + product : product;
    }
  }
}

}  // namespace

const FixedPath kScalarFixed = {.name = "scalar", .round_group = round_group, .multiply = multiply};

}  // namespace nibble
