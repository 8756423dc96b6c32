#include "quantizers/transforms/fold_scales.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
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
  folded.weight = as_stored(weight.cwiseQuotient(scales), stored);
  folded.scales = Vector::Ones(weight.size());
  for (int64_t k = 0; k < weight.size(); ++k) {
    const float ratio = weight(k) / folded.weight(k);
    if (std::isnormal(ratio) && std::isnormal(folded.weight(k))) {
      folded.scales(k) = ratio;
    } else {
      folded.weight(k) = weight(k);
      ++folded.limited;
    }
  }
  if (bias.size() != 0) folded.bias = as_stored(bias.cwiseQuotient(folded.scales), stored);
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
