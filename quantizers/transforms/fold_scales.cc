#include "quantizers/transforms/fold_scales.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

Vector as_stored(const Vector& values, Dtype type) {
  std::vector<std::byte> bytes(static_cast<size_t>(values.size() * dtype_bits(type) / 8));
  from_float({values.data(), static_cast<size_t>(values.size())}, type, bytes);
  Vector back(values.size());
  to_float({.dtype = type, .shape = {values.size()}, .bytes = bytes, .device = Device::kCpu},
           {back.data(), static_cast<size_t>(back.size())});
  return back;
}

}  // namespace

FoldedNorm fold_into_norm(const Vector& weight, const Vector& bias, const Vector& scales,
                          Dtype stored) {
  FoldedNorm folded;
  const int64_t K = weight.size();
  folded.scales = Vector::Ones(K);
  const float largest = largest_finite(stored);
  Vector quotient(K);
  for (int64_t k = 0; k < K; ++k) {
    const float magnitude = std::fabs(weight(k) / scales(k));
    // Below, old weight / new weight may overflow a float.
    const float smallest = std::max(smallest_positive(stored),
                                    std::fabs(weight(k)) / std::numeric_limits<float>::max() * 2.F);
    quotient(k) = std::copysign(std::clamp(magnitude, smallest, largest), weight(k));
    const bool is_zero = weight(k) == 0.F;
    if (is_zero) quotient(k) = weight(k);
    folded.limited += (is_zero ? scales(k) != 1.F : std::fabs(quotient(k)) != magnitude) ? 1 : 0;
  }
  folded.weight = as_stored(quotient, stored);
  for (int64_t k = 0; k < K; ++k) {
    if (weight(k) != 0.F) folded.scales(k) = weight(k) / folded.weight(k);
  }
  if (bias.size() == 0) return folded;
  folded.bias = as_stored(bias.cwiseQuotient(folded.scales), stored);
  const Vector back = folded.bias.cwiseProduct(folded.scales);
  folded.bias_error = static_cast<double>((back - bias).cwiseAbs().maxCoeff());
  return folded;
}

std::vector<int32_t> value_row_of_input(int64_t heads, int64_t key_value_heads, int64_t head_size) {
  std::vector<int32_t> rows;
  for (int64_t head = 0; head < heads; ++head) {
    const int64_t source = head / (heads / key_value_heads);
    for (int64_t i = 0; i < head_size; ++i) {
      rows.push_back(static_cast<int32_t>(source * head_size + i));
    }
  }
  return rows;
}

}  // namespace nibble
