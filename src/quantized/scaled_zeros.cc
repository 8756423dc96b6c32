#include "src/quantized/scaled_zeros.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr float kMost = 15.F;
constexpr uint8_t kMiddle = 8;

std::vector<float> floats(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  to_float(tensor.view(), values);
  return values;
}

}  // namespace

Tensor scaled_zeros(const Tensor& scales, const Tensor& zeros) {
  std::vector<float> values = floats(scales);
  const auto zero = zeros.values<uint8_t>();
  for (size_t i = 0; i < values.size(); ++i) values[i] = -(values[i] * zero[i]);
  Tensor result = Tensor::allocate(scales.dtype(), scales.shape());
  from_float(values, scales.dtype(), result.mutable_bytes());
  return result;
}

UnscaledZeros unscaled_zeros(const Tensor& scales, const Tensor& scaled) {
  const std::vector<float> scale = floats(scales);
  const std::vector<float> product = floats(scaled);
  UnscaledZeros result{.zeros = Tensor::allocate(Dtype::kU8, scales.shape())};
  const auto zeros = result.zeros.mutable_values<uint8_t>();
  for (size_t i = 0; i < zeros.size(); ++i) {
    zeros[i] = kMiddle;
    if (!std::isfinite(scale[i])) continue;
    bool fits = product[i] == 0.F;
    if (scale[i] != 0.F) {
      const float zero = std::round(-product[i] / scale[i]);
      fits = zero >= 0.F && zero <= kMost &&
             round_to(-(scale[i] * zero), scales.dtype()) == product[i];
      if (fits) zeros[i] = static_cast<uint8_t>(zero);
    }
    if (!fits && result.first_unfit < 0) result.first_unfit = static_cast<int64_t>(i);
  }
  return result;
}

}  // namespace nibble
