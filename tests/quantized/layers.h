// Quantized layers for the tests: made of a few numbers, deterministic.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"

namespace nibble {

// 0 .. 2^24 - 1, the upper bits of a linear congruential generator.
class Sequence {
 public:
  explicit Sequence(uint32_t seed) : state_(seed) {}
  uint32_t next() {
    state_ = state_ * 1664525U + 1013904223U;
    return state_ >> 8;
  }
  // Uniform in [-1, 1).
  float uniform() { return static_cast<float>(next()) * 0x1p-23F - 1.F; }

 private:
  uint32_t state_;
};

template <typename T>
Tensor tensor_of(Dtype dtype, Shape shape, const std::vector<T>& values) {
  return Tensor::copy_of<T>(dtype, std::move(shape), std::span<const T>(values));
}

// `floats` rounded to F16.
Tensor f16_tensor(Shape shape, const std::vector<float>& floats);
Tensor f32_tensor(Shape shape, const std::vector<float>& floats);

Parameter parameter(Dtype type, int bits);
Parameter second_level(Parameter first, const SecondLevel& second);

// Random codes and parameters: F16 scales in +-[0.5, 1.5] / 64, U8 zeros.
QuantizedLinear random_layer(const Scheme& scheme, int64_t N, int64_t K);

// The levels of E2M1, code 8 upwards negative, and bitsandbytes' NF4.
std::vector<float> e2m1_table();
std::vector<float> nf4_table();

}  // namespace nibble
