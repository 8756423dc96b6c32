#include "tests/kernels/cuda/linear_case.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/packing/packing.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/parameters.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"
#include "tests/kernels/cuda/executor.h"

namespace nibble {
namespace {

Tensor random_floats(Dtype dtype, int64_t count, float low, float high, std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = uniform(random);
  Tensor result = Tensor::allocate(dtype, {count});
  from_float(values, dtype, result.mutable_bytes());
  return result;
}

Tensor random_bytes(Dtype dtype, Shape shape, int low, int high, std::mt19937& random) {
  std::uniform_int_distribution<int> uniform(low, high);
  Tensor result = Tensor::allocate(dtype, std::move(shape));
  for (std::byte& value : result.mutable_bytes()) value = static_cast<std::byte>(uniform(random));
  return result;
}

// Largest relative error of rounding to the type.
double half_ulp(Dtype type) { return type == Dtype::kF16 ? 0x1p-11 : 0x1p-8; }

float value_of(uint16_t bits, Dtype type) {
  return type == Dtype::kF16 ? f16_to_float(bits) : bf16_to_float(bits);
}
uint16_t bits_of(float value, Dtype type) {
  return type == Dtype::kF16 ? float_to_f16(value) : float_to_bf16(value);
}

// A weight, and the sizes of what a kernel adds up to make it: |code| scale and |zero| scale, with
// codes and zero points relative to the middle of the grid.
struct Weight {
  double value;
  double size;
};

std::vector<Weight> weights_of(const QuantizedLinear& q) {
  std::vector<Weight> weights(static_cast<size_t>(q.N * q.K));
  const Grid& grid = q.scheme.grid;
  const double centre =
      grid.lowest < 0 || grid.kind != Grid::Kind::kInteger ? 0. : 1 << (grid.bits - 1);
  const FloatParameters parameters = float_parameters(q);
  for (int64_t n = 0; n < q.N; ++n) {
    for (int64_t k = 0; k < q.K; ++k) {
      const int64_t block = block_index(q, n, k);
      const double scale = parameters.scale[block];
      const double code = level(q, n, k) - centre;
      const double zero = q.scheme.zero ? parameters.zero[block] - centre : 0.;
      weights[n * q.K + k] = {(code - zero) * scale,
                              (std::abs(code) + std::abs(zero)) * std::abs(scale)};
    }
  }
  return weights;
}

}  // namespace

std::string LinearCase::name() const {
  return describe(scheme) + ", M " + std::to_string(M) + " N " + std::to_string(N) + " K " +
         std::to_string(K) + ", " + std::to_string(blocks) + " blocks" + (bias ? ", bias" : "");
}

QuantizedLinear random_layer(const Scheme& scheme, int64_t N, int64_t K, uint32_t seed) {
  std::mt19937 random(seed);
  QuantizedLinear q;
  q.scheme = scheme;
  q.N = N;
  q.K = K;
  q.codes = random_bytes(Dtype::kU8, {N, K}, 0, (1 << scheme.grid.bits) - 1, random);
  const int64_t blocks = block_count(scheme.blocking, N, K);
  if (is_progressive(scheme)) {
    q.scale.values = random_bytes(Dtype::kI8, {blocks}, 1, 8, random);
  } else if (scheme.scale->second) {
    q.scale.values = random_bytes(Dtype::kU8, {blocks}, 0, 255, random);
  } else {
    q.scale.values = random_floats(scheme.scale->type, blocks, -0.1F, 1.F, random);
  }
  if (scheme.scale->second) {
    q.scale.second =
        random_floats(scheme.scale->second->type, second_count(*scheme.scale->second, blocks, N),
                      0.5F, 1.F, random);
    if (scheme.scale->second->has_offset) q.scale.offset = 0.75F;
  }
  if (scheme.zero) {
    q.zero.values =
        random_bytes(scheme.zero->type, {blocks}, 0, (1 << scheme.grid.bits) - 1, random);
  }
  return q;
}

// What a kernel may be off by, of an output y = sum of x w:
//   sums         the terms are added in float, at most K / 16 + G + 64 roundings on the way of
//   each, and
//                a tensor core may cut off instead of rounding: 2^-23 of the sizes each
//   weights      in 16 bits: levels of a table are rounded; scales that go into the weights cost
//                three roundings, of the scale, of zero times scale and of the result
//   the output   is rounded
LinearReference make_reference(const LinearCase& c, const QuantizedLinear& q, Dtype type,
                               ScalesGo scales) {
  LinearReference r;
  r.type = type;
  r.x_stride = divide_up(c.K, 8) * 8 + 8;
  r.x.assign(static_cast<size_t>(c.M * r.x_stride), uint16_t{0x7fff});
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  for (int64_t m = 0; m < c.M; ++m) {
    for (int64_t k = 0; k < c.K; ++k) r.x[m * r.x_stride + k] = bits_of(normal(random), type);
  }
  if (c.bias) {
    for (int64_t n = 0; n < c.N; ++n) r.bias.push_back(bits_of(normal(random), type));
  }
  const std::vector<Weight> weights = weights_of(q);
  const double roundings =
      static_cast<double>(divide_up(c.K, 16) + block_count(c.scheme.blocking, 1, c.K) + 64);
  double weight_error = q.scheme.grid.kind == Grid::Kind::kTable ? half_ulp(type) : 0.;
  if (scales == ScalesGo::kIntoWeights) weight_error += 3. * half_ulp(type);
  for (int64_t m = 0; m < c.M; ++m) {
    for (int64_t n = 0; n < c.N; ++n) {
      double sum = c.bias ? value_of(r.bias[n], type) : 0.;
      double size = std::abs(sum);
      for (int64_t k = 0; k < c.K; ++k) {
        const double x = value_of(r.x[m * r.x_stride + k], type);
        const Weight& w = weights[n * c.K + k];
        sum += x * w.value;
        size += std::abs(x) * w.size;
      }
      r.y.push_back(sum);
      r.allowed.push_back((roundings * 0x1p-23 + weight_error) * size +
                          half_ulp(type) * std::abs(sum) * (1. + 0x1p-10));
    }
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
