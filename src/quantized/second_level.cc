#include "src/quantized/second_level.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// torch's linspace(0.1, 1, points) in float: from both ends, products not rounded.
std::vector<float> from_a_tenth_to_one(int points) {
  const float step = (1.F - 0.1F) / static_cast<float>(points - 1);
  std::vector<float> values;
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

float largest_magnitude(std::span<const float> values) {
  float largest = 0.F;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  return largest;
}

// The nearest value of the map, the lower of two as near, of x = scale / largest of its block. As
// in bitsandbytes' CPU program x is first rounded to one of 2^16 points from -1 to 1.
uint8_t nearest_in_map(float x) {
  constexpr float kHalfPoints = 32767.5F;
  const double point = std::floor((x + 1.F) * kHalfPoints + 0.5F);
  const double rounded = point / static_cast<double>(kHalfPoints) - 1.;
  const std::span<const float> map = dynamic_map();
  const auto distance = [&](int64_t i) {
    return std::fabs(rounded - static_cast<double>(map[static_cast<size_t>(i)]));
  };
  const auto above = std::upper_bound(map.begin(), map.end(), rounded);
  const int64_t low = std::max<int64_t>(0, above - map.begin() - 1);
  return static_cast<uint8_t>(low < 255 && distance(low + 1) < distance(low) ? low + 1 : low);
}

}  // namespace

std::span<const float> dynamic_map() {
  static const std::array<float, 256> map = make_dynamic_map();
  return map;
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

ParameterValues double_quantize(std::span<const float> scales, bool positive) {
  const auto blocks = std::ssize(scales);
  const int64_t nested = (blocks + kNestedBlock - 1) / kNestedBlock;
  ParameterValues result;
  result.values = Tensor::allocate(Dtype::kU8, {blocks});
  result.second = Tensor::allocate(Dtype::kF32, {nested});
  const double sum = std::accumulate(scales.begin(), scales.end(), 0.);
  result.offset = static_cast<float>(sum / static_cast<double>(std::max<int64_t>(1, blocks)));
  const auto stored = result.values.mutable_values<uint8_t>();
  const auto seconds = result.second.mutable_values<float>();
  for (int64_t block = 0; block < nested; ++block) {
    const auto first = static_cast<size_t>(block * kNestedBlock);
    const size_t count = std::min<size_t>(kNestedBlock, scales.size() - first);
    std::vector<float> shifted(scales.begin() + static_cast<std::ptrdiff_t>(first),
                               scales.begin() + static_cast<std::ptrdiff_t>(first + count));
    for (float& scale : shifted) scale -= result.offset;
    const float largest = largest_magnitude(shifted);
    seconds[static_cast<size_t>(block)] = largest;
    std::fill_n(stored.begin() + static_cast<std::ptrdiff_t>(first), count, uint8_t{0});
    // All alike: every scale is the offset. Byte 0 then, as bitsandbytes has it.
    for (size_t i = 0; i < count && largest > 0.F; ++i) {
      uint8_t byte = nearest_in_map(shifted[i] * (1.F / largest));
      while (positive && byte < 255 && dynamic_map()[byte] * largest + result.offset <= 0.F) ++byte;
      stored[first + i] = byte;
    }
  }
  return result;
}

}  // namespace nibble
