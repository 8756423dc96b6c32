// Plain integer loops: the specification. Panel: int8 [32][K].
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/int8_paths.h"

namespace nibble {
namespace {

int64_t panel_bytes(int64_t K) { return (kInt8Panel * K + 63) / 64 * 64; }

void pack_panel(const int8_t* w, int64_t rows, int64_t K, std::byte* panel) {
  auto* to = reinterpret_cast<int8_t*>(panel);
  std::copy_n(w, rows * K, to);
  std::fill_n(to + rows * K, (kInt8Panel - rows) * K, int8_t{0});
}

void multiply(const int8_t* x, int64_t stride, const int32_t* /*input_sums*/, int64_t T,
              const std::byte* panel, int64_t K, int32_t* sums) {
  const auto* w = reinterpret_cast<const int8_t*>(panel);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t n = 0; n < kInt8Panel; ++n) {
      int32_t sum = 0;
      for (int64_t k = 0; k < K; ++k) sum += int32_t{x[t * stride + k]} * int32_t{w[n * K + k]};
      sums[t * kInt8Panel + n] = sum;
    }
  }
}

}  // namespace

const Int8Path kScalarInt8 = {
    .name = "scalar", .panel_bytes = panel_bytes, .pack_panel = pack_panel, .multiply = multiply};

}  // namespace nibble
