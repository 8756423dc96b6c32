// The 16-bit types of the kernels for tests that run with each: random values, their meaning in
// float64, and a comparison with what is allowed for each element.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/device.h"
#include "src/tensor/convert.h"

namespace nibble {

template <typename T>
double to_double(T value) {
  if constexpr (std::is_same_v<T, F16>) {
    return f16_to_float(value.bits);
  } else if constexpr (std::is_same_v<T, BF16>) {
    return bf16_to_float(value.bits);
  } else {
    return value;
  }
}

template <typename T>
T rounded(float value) {
  if constexpr (std::is_same_v<T, F16>) {
    return {float_to_f16(value)};
  } else if constexpr (std::is_same_v<T, BF16>) {
    return {float_to_bf16(value)};
  } else {
    return value;
  }
}

// Largest relative error of rounding to T.
template <typename T>
constexpr double half_ulp() {
  return std::is_same_v<T, F16> ? 0x1p-11 : std::is_same_v<T, BF16> ? 0x1p-8 : 0x1p-24;
}
// And the largest error below its smallest normal number.
template <typename T>
constexpr double smallest_step() {
  return std::is_same_v<T, F16> ? 0x1p-25 : 0;
}

// count normal deviates times `size`.
template <typename T>
std::vector<T> random_values(size_t count, uint32_t seed, float size = 1.F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.F, size);
  std::vector<T> values(count);
  for (T& value : values) value = rounded<T>(normal(random));
  return values;
}

// First element that is too far off, or empty.
template <typename T>
std::string compare_values(std::span<const T> got, std::span<const double> expected,
                           std::span<const double> allowed) {
  for (size_t i = 0; i < got.size(); ++i) {
    const double value = to_double(got[i]);
    if (std::abs(value - expected[i]) <= allowed[i]) continue;
    return "element " + std::to_string(i) + " is " + std::to_string(value) + ", expected " +
           std::to_string(expected[i]) + " +- " + std::to_string(allowed[i]);
  }
  return {};
}

}  // namespace nibble
