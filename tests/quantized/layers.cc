#include "tests/quantized/layers.h"

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"

namespace nibble {

Tensor f16_tensor(Shape shape, const std::vector<float>& floats) {
  std::vector<uint16_t> bits;
  bits.reserve(floats.size());
  for (const float value : floats) bits.push_back(float_to_f16(value));
  return tensor_of(Dtype::kF16, std::move(shape), bits);
}

Tensor f32_tensor(Shape shape, const std::vector<float>& floats) {
  return tensor_of(Dtype::kF32, std::move(shape), floats);
}

Parameter parameter(Dtype type, int bits) {
  Parameter result;
  result.type = type;
  result.bits = bits;
  return result;
}

Parameter second_level(Parameter first, const SecondLevel& second) {
  first.second = second;
  return first;
}

QuantizedLinear random_layer(const Scheme& scheme, int64_t N, int64_t K) {
  Sequence sequence(7);
  QuantizedLinear q;
  q.scheme = scheme;
  q.N = N;
  q.K = K;
  const uint32_t codes = 1U << scheme.grid.bits;
  std::vector<uint8_t> values(static_cast<size_t>(N * K));
  for (uint8_t& value : values) value = static_cast<uint8_t>(sequence.next() % codes);
  q.codes = tensor_of(Dtype::kU8, {N, K}, values);
  const int64_t blocks = block_count(scheme.blocking, N, K);
  if (scheme.scale) {
    std::vector<float> scales(static_cast<size_t>(blocks));
    for (float& scale : scales) {
      const float sign = sequence.next() % 2 == 0 ? 1.F : -1.F;
      scale = sign * (1.F + sequence.uniform() / 2.F) / 64.F;
    }
    q.scale.values = f16_tensor({blocks}, scales);
  }
  if (scheme.zero) {
    std::vector<uint8_t> zeros(static_cast<size_t>(blocks));
    for (uint8_t& zero : zeros) zero = static_cast<uint8_t>(sequence.next() % codes);
    q.zero.values = tensor_of(Dtype::kU8, {blocks}, zeros);
  }
  return q;
}

std::vector<float> e2m1_table() {
  return {0.F, .5F, 1.F, 1.5F, 2.F, 3.F, 4.F, 6.F, -0.F, -.5F, -1.F, -1.5F, -2.F, -3.F, -4.F, -6.F};
}

std::vector<float> nf4_table() {
  return {-1.F,
          -0.6961928009986877F,
          -0.5250730514526367F,
          -0.39491748809814453F,
          -0.28444138169288635F,
          -0.18477343022823334F,
          -0.09105003625154495F,
          0.F,
          0.07958029955625534F,
          0.16093020141124725F,
          0.24611230194568634F,
          0.33791524171829224F,
          0.44070982933044434F,
          0.5626170039176941F,
          0.7229568362236023F,
          1.F};
}

}  // namespace nibble
