#include "src/quantized/second_level.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/quantized/llm_int8.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// torch's linspace(0.1, 1, points) in float: from both ends, products not rounded.
std::vector<float> from_a_tenth_to_one(int points) {
  const float step = (1.F - 0.1F) / static_cast<float>(points - 1);
  std::vector<float> values;
  values.reserve(static_cast<size_t>(points));
  for (int i = 0; i < points; ++i) {
    values.push_back(i < points / 2 ? std::fma(step, static_cast<float>(i), 0.1F)
                                    : std::fma(-step, static_cast<float>(points - 1 - i), 1.F));
  }
  return values;
}

std::array<float, 256> make_dynamic_map() {
  std::vector<float> values = {0.F, 1.F};
  for (int e = 0; e <= 6; ++e) {
    const std::vector<float> bounds = from_a_tenth_to_one((1 << e) + 1);
    const auto power = static_cast<float>(std::pow(10., e - 6));
    for (size_t j = 0; j + 1 < bounds.size(); ++j) {
      const float value = power * ((bounds[j] + bounds[j + 1]) / 2.F);
      values.push_back(value);
      values.push_back(-value);
    }
  }
  std::sort(values.begin(), values.end());
  std::array<float, 256> map{};
  std::copy(values.begin(), values.end(), map.begin());
  return map;
}

// ---- the mean, as PyTorch sums ------------------------------------------------------------------

// `kWidth` sums side by side over rows of kWidth values, in four levels: every 2^power additions a
// level is added to the next and cleared, so that no sum is of many terms.
template <size_t kWidth>
std::array<float, kWidth> cascade(const float* values, int64_t rows) {
  constexpr size_t kLevels = 4;
  const int depth =
      rows <= 1 ? 0 : static_cast<int>(std::bit_width(static_cast<uint64_t>(rows - 1)));
  const int power = std::max(4, depth / static_cast<int>(kLevels));
  std::array<std::array<float, kWidth>, kLevels> sums{};
  const auto add = [](std::array<float, kWidth>& sum, const float* terms) {
    for (size_t i = 0; i < kWidth; ++i) sum[i] += terms[i];
  };
  const int64_t step = int64_t{1} << power;
  int64_t row = 0;
  while (row + step <= rows) {
    for (const int64_t end = row + step; row < end; ++row) {
      add(sums[0], values + row * std::ssize(sums[0]));
    }
    for (size_t level = 1; level < kLevels; ++level) {
      add(sums[level], sums[level - 1].data());
      sums[level - 1].fill(0.F);
      if ((row & ((step - 1) << (static_cast<int>(level) * power))) != 0) break;
    }
  }
  for (; row < rows; ++row) add(sums[0], values + row * std::ssize(sums[0]));
  for (size_t level = 1; level < kLevels; ++level) add(sums[0], sums[level].data());
  return sums[0];
}

// kLanes sums of the values in turn, each of four parts.
template <size_t kLanes>
std::array<float, kLanes> lane_sums(const float* values, int64_t rows) {
  constexpr size_t kParts = 4;
  constexpr auto kStride = static_cast<int64_t>(kLanes);
  const int64_t whole = rows / static_cast<int64_t>(kParts);
  const auto parts = cascade<kLanes * kParts>(values, whole);
  std::array<float, kLanes> sum{};
  for (size_t i = 0; i < kLanes; ++i) sum[i] = parts[i];
  for (int64_t row = whole * static_cast<int64_t>(kParts); row < rows; ++row) {
    for (size_t i = 0; i < kLanes; ++i) sum[i] += values[row * kStride + static_cast<int64_t>(i)];
  }
  for (size_t part = 1; part < kParts; ++part) {
    for (size_t i = 0; i < kLanes; ++i) sum[i] += parts[part * kLanes + i];
  }
  return sum;
}

// torch.mean on one thread; with more, it cuts sums of 32,768 values and more by their number.
float mean(std::span<const float> values) {
  constexpr int64_t kLanes = 8;
  const int64_t count = std::ssize(values);
  const auto divisor = static_cast<float>(count);
  if (count < kLanes) return lane_sums<1>(values.data(), count)[0] / divisor;
  const auto lanes = lane_sums<kLanes>(values.data(), count / kLanes);
  float sum = 0.F;
  for (const float value : values.subspan(static_cast<size_t>(count / kLanes * kLanes))) {
    sum += value;
  }
  for (const float lane : lanes) sum += lane;
  return sum / divisor;
}

// ---- double quantization ------------------------------------------------------------------------

// The level of a rising map for each of 65,536 points even in [-1, 1], which is where bitsandbytes'
// CPU program looks it up.
class PointMap {
 public:
  explicit PointMap(std::span<const float> map) : level_(kPoints) {
    std::vector<float> bounds;
    for (size_t i = 0; i + 1 < map.size(); ++i) bounds.push_back((map[i] + map[i + 1]) * 0.5F);
    for (size_t i = 0; i < level_.size(); ++i) {
      const float point = static_cast<float>(2 * i) / kSteps - 1.F;
      const auto bound = std::lower_bound(bounds.begin(), bounds.end(), point);
      level_[i] = static_cast<uint8_t>(bound - bounds.begin());
    }
  }
  // x in [-1, 1]. The product and the sum are one operation, rounded once (exact in double).
  uint8_t at(float x) const {
    const double place = static_cast<double>((1.F + x) * 0.5F) * static_cast<double>(kSteps) + 0.5;
    return level_[static_cast<size_t>(static_cast<float>(place)) % kPoints];
  }

 private:
  static constexpr size_t kPoints = 65536;
  static constexpr float kSteps = 65535.F;
  std::vector<uint8_t> level_;
};

// Second level around the mean. counts(scale): whether a scale is one to be stored well.
template <typename Counts>
void fit_around_mean(std::span<const float> scales, ParameterValues& out, const Counts& counts) {
  std::vector<float> counted;
  std::copy_if(scales.begin(), scales.end(), std::back_inserter(counted), counts);
  out.offset = counted.empty() ? 1.F : mean(counted);
  const int64_t blocks = (std::ssize(scales) + kNestedBlock - 1) / kNestedBlock;
  out.second = Tensor::allocate(Dtype::kF32, {blocks});
  const std::span<float> second = out.second.mutable_values<float>();
  std::fill(second.begin(), second.end(), 0.F);
  for (size_t i = 0; i < scales.size(); ++i) {
    float& largest = second[i / static_cast<size_t>(kNestedBlock)];
    if (counts(scales[i])) largest = std::max(largest, std::fabs(scales[i] - out.offset));
  }
}

// ---- progressive groups -------------------------------------------------------------------------

constexpr float kProtected = 119.F;
constexpr int kLargestProgressive = 16;  // 2 * 119 / 15, to nearest

void fit_rows(ConstMatrixRef W, std::span<uint16_t> second) {
  for (int64_t n = 0; n < W.rows(); ++n) {
    const float largest = W.row(n).cwiseAbs().maxCoeff();
    const float fitted = largest == 0.F ? 1.F : largest / kProtected;
    second[static_cast<size_t>(n)] = float_to_f16(std::max(fitted, smallest_positive(Dtype::kF16)));
  }
}

void check_second_level(const ParameterValues& scale, const std::string& where) {
  std::vector<float> values(static_cast<size_t>(scale.second.elements()));
  to_float(scale.second.view(), values);
  values.push_back(scale.offset);
  for (const float value : values) {
    if (std::isfinite(value)) continue;
    throw Error(
        where,
        "a scale of its scales is infinite in " + std::string(dtype_name(scale.second.dtype())),
        "weights this large need plain scales in F32");
  }
}

}  // namespace

std::span<const float> dynamic_map() {
  static const std::array<float, 256> kMap = make_dynamic_map();
  return kMap;
}

Scheme double_quantized(Scheme scheme) {
  const std::span<const float> map = dynamic_map();
  scheme.scale = Parameter{
      .type = Dtype::kU8,
      .bits = 8,
      .table = {map.begin(), map.end()},
      .second = SecondLevel{.type = Dtype::kF32, .block = kNestedBlock, .has_offset = true}};
  return scheme;
}

Scheme progressive_scheme(int64_t group_size) {
  Scheme scheme = integer_scheme(4, group_size, false, Dtype::kF16);
  scheme.scale = Parameter{
      .type = Dtype::kI8, .bits = 8, .second = SecondLevel{.type = Dtype::kF16, .block = kOneRow}};
  return scheme;
}

bool is_progressive(const Scheme& scheme) {
  Scheme weights = scheme;
  weights.activations.reset();
  const int64_t group = scheme.blocking.columns;
  return (group == kAll || group > 0) && weights == progressive_scheme(group);
}

bool fits_int8(const QuantizedLinear& q) {
  const int steps = (1 << q.scheme.grid.bits) - 1;
  const auto stored = q.scale.values.values<int8_t>();
  const auto zeros = q.zero.values.values<uint8_t>();
  for (size_t b = 0; b < stored.size(); ++b) {
    const int first = -zeros[b] * stored[b];
    const int last = (steps - zeros[b]) * stored[b];
    if (std::min(first, last) < -128 || std::max(first, last) > 127) return false;
  }
  return true;
}

void integer_row(const QuantizedLinear& q, int64_t n, std::span<int8_t> integers) {
  const auto codes = q.codes.values<uint8_t>().subspan(static_cast<size_t>(n * q.K));
  for (int64_t k = 0; k < q.K; ++k) {
    const auto block = static_cast<size_t>(block_index(q, n, k));
    const int level = codes[static_cast<size_t>(k)] - q.zero.values.values<uint8_t>()[block];
    integers[static_cast<size_t>(k)] =
        static_cast<int8_t>(level * q.scale.values.values<int8_t>()[block]);
  }
}

ParameterValues double_quantize(std::span<const float> scales) {
  static const PointMap kMap(dynamic_map());
  ParameterValues result;
  fit_around_mean(scales, result, [](float /*scale*/) { return true; });
  result.values = Tensor::allocate(Dtype::kU8, {std::ssize(scales)});
  const auto stored = result.values.mutable_values<uint8_t>();
  const auto second = result.second.values<float>();
  for (size_t i = 0; i < scales.size(); ++i) {
    const float largest = second[i / static_cast<size_t>(kNestedBlock)];
    const float x = (scales[i] - result.offset) * (1.F / largest);
    // All alike: every scale is the offset. Byte 0 then, as bitsandbytes has it.
    stored[i] = largest == 0.F ? uint8_t{0} : kMap.at(std::clamp(x, -1.F, 1.F));
  }
  return result;
}

std::string second_level_refusal(const Scheme& scheme) {
  const bool integers = scheme.grid.kind == Grid::Kind::kInteger && scheme.blocking.rows == 1 &&
                        !scheme.blocking.flattened;
  if (!integers) return "scales of scales are fitted to integers in groups along rows";
  if (is_progressive(scheme) || scheme.scale == double_quantized(scheme).scale) return {};
  if (is_llm_int8(scheme)) return "LLM.int8 has a rounding of its own, that of rtn";
  return "its scales of scales are none of those that are fitted";
}

void fit_second_level(ConstMatrixRef W, std::span<const float> scales, QuantizedLinear& q,
                      const std::string& where) {
  if (is_progressive(q.scheme)) {
    q.scale.second = Tensor::allocate(Dtype::kF16, {q.N});
    fit_rows(W, q.scale.second.mutable_values<uint16_t>());
  } else {
    fit_around_mean(scales, q.scale, [](float scale) { return scale != 0.F; });
  }
  check_second_level(q.scale, where);
}

int64_t second_index(const SecondLevel& second, int64_t index, int64_t blocks, int64_t N) {
  if (second.block == kAll) return 0;
  return index / (second.block == kOneRow ? std::max<int64_t>(blocks / N, 1) : second.block);
}

float second_level_value(const SecondLevel& level, float value, float second, float offset) {
  const float product = level.divides ? value / second : value * second;
  return level.has_offset ? product + offset : product;
}

StorableScales::StorableScales(const QuantizedLinear& q, const Parameter& parameter,
                               const ParameterValues& values)
    : parameter_(parameter),
      rows_(q.N),
      blocks_(block_count(q.scheme.blocking, q.N, q.K)),
      steps_(static_cast<float>((1 << q.scheme.grid.bits) - 1)),
      protects_(is_progressive(q.scheme)) {
  if (!parameter_.second) return;
  second_.resize(static_cast<size_t>(values.second.elements()));
  to_float(values.second.view(), second_);
  is_float_ = is_float(parameter_.type);
  if (is_float_) return;
  is_integer_ = parameter_.table.empty() && !protects_;
  if (is_integer_) {
    const int count = 1 << parameter_.bits;
    lowest_ = static_cast<float>(parameter_.type == Dtype::kI8 ? -count / 2 : 0);
    highest_ = lowest_ + static_cast<float>(count - 1);
    return;
  }
  first_code_ = protects_ ? 1 : 0;
  level_count_ = protects_ ? kLargestProgressive : std::ssize(parameter_.table);
  levels_.reserve(second_.size() * static_cast<size_t>(level_count_));
  for (const float factor : second_) {
    const size_t begin = levels_.size();
    for (int code = first_code_; code < first_code_ + level_count_; ++code) {
      const float value = parameter_.table.empty() ? static_cast<float>(code)
                                                   : parameter_.table[static_cast<size_t>(code)];
      levels_.push_back(second_level_value(*parameter_.second, value, factor, values.offset));
    }
    // A scale that is not positive stands for the smallest that is.
    const auto first = levels_.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto positive = std::upper_bound(first, levels_.end(), 0.F);
    std::fill(first, positive, *positive);
  }
}

std::optional<StorableScales> StorableScales::of_minimums(const QuantizedLinear& q) {
  if (!q.scheme.minimum) return std::nullopt;
  return StorableScales(q, *q.scheme.minimum, q.minimum);
}

float StorableScales::unit(int64_t block) const {
  return second_[static_cast<size_t>(second_index(*parameter_.second, block, blocks_, rows_))];
}

// Of floats: before the second level, not yet rounded.
float StorableScales::as_stored(float scale, int64_t block) const {
  return parameter_.second->divides ? scale * unit(block) : scale / unit(block);
}

std::span<const float> StorableScales::levels(int64_t block) const {
  const int64_t index = second_index(*parameter_.second, block, blocks_, rows_);
  return std::span(levels_).subspan(static_cast<size_t>(index * level_count_),
                                    static_cast<size_t>(level_count_));
}

void StorableScales::round(std::span<float> scales, std::span<const int64_t> blocks) const {
  if (!parameter_.second) {
    const size_t bytes = static_cast<size_t>(dtype_bits(parameter_.type)) / 8;
    std::vector<std::byte> stored(scales.size() * bytes);
    from_float(scales, parameter_.type, stored);
    to_float({.dtype = parameter_.type, .shape = {std::ssize(scales)}, .bytes = stored}, scales);
    return;
  }
  for (size_t i = 0; i < scales.size(); ++i) {
    const int64_t block = blocks[i % blocks.size()];
    if (is_float_) {
      const float stored = round_to(as_stored(scales[i], block), parameter_.type);
      scales[i] = second_level_value(*parameter_.second, stored, unit(block), 0.F);
      continue;
    }
    if (is_integer_) {
      const float second = unit(block);
      const float integer =
          second == 0.F ? 0.F : std::nearbyint(std::clamp(scales[i] / second, lowest_, highest_));
      scales[i] = integer * second;
      continue;
    }
    const std::span<const float> all = levels(block);
    const auto above = std::lower_bound(all.begin() + 1, all.end() - 1, scales[i]);
    const float below = *(above - 1);
    scales[i] = scales[i] - below <= *above - scales[i] ? below : *above;
  }
}

// -zero * stored >= -128 and (15 - zero) * stored <= 127.
ZeroRange StorableScales::protected_zeros(float scale, int64_t block) const {
  const float stored = scale / levels(block)[0];
  return {.smallest = std::max(0.F, steps_ - std::floor(127.F / stored)),
          .largest = std::min(steps_, std::floor(128.F / stored))};
}

void StorableScales::store(std::span<const float> scales, ParameterValues& stored) const {
  if (!parameter_.second) {
    from_float(scales, parameter_.type, stored.values.mutable_bytes());
    return;
  }
  const std::span<std::byte> bytes = stored.values.mutable_bytes();
  for (size_t i = 0; i < scales.size(); ++i) {
    const auto block = static_cast<int64_t>(i);
    if (is_float_) {
      bytes[i] = std::byte{float_to_f8(as_stored(scales[i], block), parameter_.type)};
      continue;
    }
    if (is_integer_) {
      const float second = unit(block);
      if (second == 0.F) continue;
      bytes[i] = static_cast<std::byte>(static_cast<int>(std::nearbyint(scales[i] / second)));
      continue;
    }
    const std::span<const float> all = levels(block);
    // The last of equal ones: the first may stand for it.
    const auto above = std::upper_bound(all.begin(), all.end(), scales[i]);
    assert(above != all.begin() && *(above - 1) == scales[i]);
    bytes[i] = static_cast<std::byte>(above - all.begin() - 1 + first_code_);
  }
}

}  // namespace nibble
