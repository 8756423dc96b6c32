#include "src/quantized/recast.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kCompareRows = 64;  // dequantized at a time
constexpr float kMostSteps = 255;     // a minimum of more scales is no zero point of 8-bit codes

// Why the arrangement of q has no exact counterpart in the target's, whatever its values are.
std::string unlike(const QuantizedLinear& q, const Scheme& target) {
  const Scheme& scheme = q.scheme;
  const auto along_rows = [](const Blocking& b) { return b.rows == 1 && !b.flattened; };
  if (scheme.grid.kind != Grid::Kind::kInteger) return "its levels are no integers";
  if (!scheme.scale || scheme.scale->second || !is_float(scheme.scale->type)) {
    return "its scales are quantized in turn";
  }
  if (scheme.activations) return "its activations are quantized";
  if (!along_rows(scheme.blocking)) return "its groups do not lie along rows";
  if (!q.group_of_column.empty()) return "its groups are not neighbouring columns (act-order)";
  const auto columns = [&](const Blocking& b) { return b.columns == kAll ? q.K : b.columns; };
  const int64_t have = columns(scheme.blocking);
  const int64_t want = columns(target.blocking);
  if (have % want != 0 || q.K % want != 0) {
    return "groups of " + std::to_string(have) + " columns are not made of " + std::to_string(want);
  }
  return {};
}

// The zero points of q's blocks as numbers, for parameters p: of a symmetric layer its grid's.
// nullopt with the first block whose minimum is no multiple of its scale.
struct ZeroPoints {
  std::vector<float> values;  // [blocks]
  std::optional<int64_t> unfit;
};

ZeroPoints zero_points(const QuantizedLinear& q, const FloatParameters& p) {
  ZeroPoints zeros{.values = p.zero, .unfit = {}};
  zeros.values.resize(p.scale.size(), 0.F);
  for (size_t b = 0; b < zeros.values.size(); ++b) {
    zeros.values[b] -= static_cast<float>(q.scheme.grid.lowest);
    if (p.minimum.empty() || p.minimum[b] == 0.F) continue;
    const float steps = -p.minimum[b] / p.scale[b];
    if (!(std::abs(steps) <= kMostSteps) || std::round(steps) * p.scale[b] != -p.minimum[b]) {
      zeros.unfit = static_cast<int64_t>(b);
      return zeros;
    }
    zeros.values[b] += std::round(steps);
  }
  return zeros;
}

// Values of the target's blocks [N, K / columns] from those of q's, which they are parts of.
Tensor spread(const Tensor& values, int64_t N, int64_t blocks, int64_t parts) {
  const int64_t width = dtype_bits(values.dtype()) / 8;
  Tensor result = Tensor::allocate(values.dtype(), {N, blocks * parts});
  std::byte* to = result.mutable_bytes().data();
  for (int64_t b = 0; b < N * blocks; ++b) {
    for (int64_t part = 0; part < parts; ++part, to += width) {
      std::ranges::copy(values.bytes().subspan(b * width, width), to);
    }
  }
  return result;
}

Tensor from_floats(std::span<const float> values, Dtype type) {
  Tensor tensor = Tensor::allocate(type, {std::ssize(values)});
  from_float(values, type, tensor.mutable_bytes());
  return tensor;
}

Tensor as_bytes(std::span<const float> zeros) {
  Tensor tensor = Tensor::allocate(Dtype::kU8, {std::ssize(zeros)});
  std::ranges::transform(zeros, tensor.mutable_values<uint8_t>().begin(),
                         [](float zero) { return static_cast<uint8_t>(zero); });
  return tensor;
}

// Zero points and minimums of the target. Returns what is subtracted from its levels, [blocks] of
// q.
std::vector<float> set_zeros(const QuantizedLinear& q, const std::vector<float>& zeros,
                             const std::vector<float>& scales, int64_t parts,
                             QuantizedLinear& result) {
  const Scheme& target = result.scheme;
  if (target.symmetric()) return std::vector<float>(zeros.size(), 0.F);
  const int64_t blocks = group_count(q.scheme.blocking, q.K);
  if (target.zero) result.zero.values = spread(as_bytes(zeros), q.N, blocks, parts);
  if (target.minimum) {
    std::vector<float> minimums(zeros.size());
    for (size_t b = 0; b < zeros.size(); ++b) minimums[b] = -(zeros[b] * scales[b]);
    result.minimum.values = spread(from_floats(minimums, target.minimum->type), q.N, blocks, parts);
  }
  return zeros;
}

// Codes whose level less `target_zero` is q's level less its zero point; the reason if one is
// beyond the target's grid.
std::string move_codes(const QuantizedLinear& q, const std::vector<float>& zeros,
                       const std::vector<float>& target_zeros, QuantizedLinear& result) {
  const Grid& grid = result.scheme.grid;
  const int64_t columns = q.scheme.blocking.columns == kAll ? q.K : q.scheme.blocking.columns;
  const int64_t blocks = q.K / columns;
  const int last = (1 << grid.bits) - 1;
  const uint8_t* from = q.codes.values<uint8_t>().data();
  uint8_t* to = result.codes.mutable_values<uint8_t>().data();
  for (int64_t n = 0; n < q.N; ++n) {
    for (int64_t k = 0; k < q.K; ++k, ++from, ++to) {
      const auto block = static_cast<size_t>(n * blocks + k / columns);
      const int level = *from - static_cast<int>(zeros[block]);
      const int code = level + static_cast<int>(target_zeros[block]) - grid.lowest;
      if (code < 0 || code > last) {
        return block_place(q.scheme.blocking, q.N, q.K, static_cast<int64_t>(block)) +
               " has the level " + std::to_string(level) + ", beyond " +
               std::to_string(grid.lowest) + " to " + std::to_string(grid.lowest + last);
      }
      *to = static_cast<uint8_t>(code);
    }
  }
  return {};
}

// Whether both multiply out to the same numbers.
bool same_weights(const QuantizedLinear& a, const QuantizedLinear& b) {
  const FloatParameters p = float_parameters(a);
  const FloatParameters r = float_parameters(b);
  for (int64_t first = 0; first < a.N; first += kCompareRows) {
    Matrix x(std::min(kCompareRows, a.N - first), a.K);
    Matrix y(x.rows(), a.K);
    dequantize_rows(a, p, first, x);
    dequantize_rows(b, r, first, y);
    if (x != y) return false;
  }
  return true;
}

Recast refused(std::string reason) { return {.q = std::nullopt, .reason = std::move(reason)}; }

}  // namespace

std::optional<Tensor> exactly_as(const Tensor& tensor, Dtype type) {
  if (tensor.dtype() == type) return tensor;
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  to_float(tensor.view(), values);
  Tensor result = Tensor::allocate(type, tensor.shape());
  from_float(values, type, result.mutable_bytes());
  std::vector<float> back(values.size());
  to_float(result.view(), back);
  if (back != values) return std::nullopt;
  return result;
}

Recast recast(const QuantizedLinear& q, const Scheme& target) {
  if (q.scheme == target) return {.q = q, .reason = {}};
  if (std::string reason = unlike(q, target); !reason.empty()) return refused(std::move(reason));
  const FloatParameters parameters = float_parameters(q);
  const ZeroPoints zeros = zero_points(q, parameters);
  if (zeros.unfit) {
    return refused(block_place(q.scheme.blocking, q.N, q.K, *zeros.unfit) +
                   " has a minimum that is no multiple of its scale");
  }
  const std::optional<Tensor> scales = exactly_as(q.scale.values, target.scale->type);
  if (!scales) {
    return refused("not every scale is a number in " + std::string(dtype_name(target.scale->type)));
  }
  if (target.zero) {
    const int last = (1 << target.grid.bits) - 1;
    const auto beyond = std::ranges::find_if(
        zeros.values, [&](float z) { return z < 0.F || z > static_cast<float>(last); });
    if (beyond != zeros.values.end()) {
      return refused(block_place(q.scheme.blocking, q.N, q.K, beyond - zeros.values.begin()) +
                     " has a zero point beyond 0 to " + std::to_string(last));
    }
  }
  QuantizedLinear result;
  result.scheme = target;
  result.N = q.N;
  result.K = q.K;
  result.codes = Tensor::allocate(Dtype::kU8, {q.N, q.K});
  const int64_t blocks = group_count(q.scheme.blocking, q.K);
  const int64_t parts = group_count(target.blocking, q.K) / blocks;
  result.scale.values = spread(*scales, q.N, blocks, parts);
  const std::vector<float> target_zeros =
      set_zeros(q, zeros.values, parameters.scale, parts, result);
  if (std::string reason = move_codes(q, zeros.values, target_zeros, result); !reason.empty()) {
    return refused(std::move(reason));
  }
  if (!same_weights(q, result)) {
    return refused("a zero point times its scale is no number in " +
                   std::string(dtype_name(target.scale->type)));
  }
  return {.q = std::move(result), .reason = {}};
}

}  // namespace nibble
