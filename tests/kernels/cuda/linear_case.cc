#include "tests/kernels/cuda/linear_case.h"

#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/packing/packing.h"
#include "kernels/bench/linear_reference.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/parameters.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "tests/kernels/cuda/executor.h"

namespace nibble {
namespace {

uint16_t bits_of(float value, Dtype type) {
  return type == Dtype::kF16 ? float_to_f16(value) : float_to_bf16(value);
}
float value_of(uint16_t bits, Dtype type) {
  return type == Dtype::kF16 ? f16_to_float(bits) : bf16_to_float(bits);
}

}  // namespace

std::string LinearCase::name() const {
  return describe(scheme) + ", M " + std::to_string(M) + " N " + std::to_string(N) + " K " +
         std::to_string(K) + ", " + std::to_string(blocks) + " blocks" + (bias ? ", bias" : "");
}

LinearReference make_reference(const LinearCase& c, const QuantizedLinear& q, Dtype type,
                               Arithmetic arithmetic) {
  LinearReference r;
  r.type = type;
  const LinearInputs inputs = random_inputs(type, c.M, c.N, c.K, c.bias);
  r.x_stride = divide_up(c.K, 8) * 8 + 8;
  r.x.assign(static_cast<size_t>(c.M * r.x_stride), uint16_t{0x7fff});
  for (int64_t m = 0; m < c.M; ++m) {
    for (int64_t k = 0; k < c.K; ++k) r.x[m * r.x_stride + k] = bits_of(inputs.x(m, k), type);
  }
  for (const float value : inputs.bias) r.bias.push_back(bits_of(value, type));
  const ExpectedOutputs expected = expected_outputs(inputs, q, arithmetic);
  assert(std::ssize(expected.outputs) == c.M * c.N);  // all of them
  for (const auto& output : expected.outputs) {
    r.y.push_back(output.y);
    r.allowed.push_back(output.allowed);
  }
  return r;
}

LayerParameters place_parameters(const FragmentLinear& w, GlobalMemory& memory) {
  LayerParameters p;
  p.kind = w.scale_kind;
  p.scale = memory.input(std::span<const std::byte>(w.scale));
  if (!w.zero.empty()) p.zero = memory.input(std::span<const int8_t>(w.zero));
  p.map = memory.input(std::span<const float>(w.map));
  p.second = memory.input(std::span<const float>(w.second));
  p.offset = w.offset;
  p.group = static_cast<int>(w.group);
  p.groups = static_cast<int>(w.groups);
  p.padded_rows = static_cast<int>(w.padded_rows);
  return p;
}

std::string compare(const LinearReference& reference, std::span<const uint16_t> y, int64_t N) {
  for (size_t i = 0; i < y.size(); ++i) {
    const double got = value_of(y[i], reference.type);
    if (std::abs(got - reference.y[i]) <= reference.allowed[i]) continue;
    return "y[" + std::to_string(static_cast<int64_t>(i) / N) + ", " +
           std::to_string(static_cast<int64_t>(i) % N) + "] = " + std::to_string(got) +
           ", expected " + std::to_string(reference.y[i]) + " +- " +
           std::to_string(reference.allowed[i]);
  }
  return {};
}

}  // namespace nibble
