#include "src/quantized/own_rows.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// All arrays of a layer that grow with its rows; L: QuantizedLinear or const QuantizedLinear.
template <typename L>
auto arrays_of(L& q) {
  return std::array{&q.codes,       &q.scale.values,   &q.scale.second,  &q.zero.values,
                    &q.zero.second, &q.minimum.values, &q.minimum.second};
}

}  // namespace

bool has_own_rows(const Scheme& scheme, int64_t K) {
  if (scheme.grid.kind == Grid::Kind::kCodebook || scheme.blocking.rows != 1 ||
      scheme.blocking.flattened) {
    return false;
  }
  const int64_t groups = group_count(scheme.blocking, K);
  const auto ends_with_row = [&](const std::optional<Parameter>& parameter) {
    if (!parameter || !parameter->second) return true;
    const SecondLevel& second = *parameter->second;
    if (second.has_offset) return false;
    return second.block == kOneRow || (second.block > 0 && groups % second.block == 0);
  };
  return ends_with_row(scheme.scale) && ends_with_row(scheme.zero) && ends_with_row(scheme.minimum);
}

QuantizedLinear room_for_rows(const QuantizedLinear& part, int64_t N) {
  assert(part.group_of_column.empty() && part.codebooks.empty());
  QuantizedLinear q;
  q.scheme = part.scheme;
  q.N = N;
  q.K = part.K;
  const auto from = arrays_of(part);
  const auto to = arrays_of(q);
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i]->empty()) continue;
    Shape shape = from[i]->shape();
    shape[0] = shape[0] / part.N * N;
    *to[i] = Tensor::uninitialized(from[i]->dtype(), std::move(shape));
  }
  return q;
}

void place_rows(const QuantizedLinear& part, int64_t first, QuantizedLinear& q) {
  assert(first + part.N <= q.N && part.K == q.K);
  const auto from = arrays_of(part);
  const auto to = arrays_of(q);
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i]->empty()) continue;
    const std::span<const std::byte> bytes = from[i]->bytes();
    const int64_t row_bytes = std::ssize(bytes) / part.N;
    std::ranges::copy(bytes, to[i]->mutable_bytes().data() + first * row_bytes);
  }
}

}  // namespace nibble
