// y[t, n] = s_t sum_k (q[t, k] - z_t) W[n, k], with x[t, k] ~ (q[t, k] - z_t) s_t quantized to
// integers. Dynamic scales follow the rule of the weights (src/quantized/range_rule.h, row
// "nibble") over a token or the whole of x; a zero s becomes 1. Floating-point activations are
// rounded (src/quantized/float_inputs.h), the rest is a product in float64.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "src/quantized/float_inputs.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

struct InputRule {
  float scale = 1.f;
  float zero = 0.f;
};

// Lowest integer of an activation and how many steps there are above it.
float lowest_input(const ActivationScheme& scheme) {
  return -static_cast<float>(1 << (scheme.bits - 1));
}
float input_steps(const ActivationScheme& scheme) {
  return static_cast<float>((1 << scheme.bits) - 1);
}

InputRule dynamic_rule(ConstMatrixRef x, const ActivationScheme& scheme) {
  const float low = std::min(x.minCoeff(), 0.f);
  const float high = std::max(x.maxCoeff(), 0.f);
  const float largest = std::max(-low, high);
  if (largest == 0.f) return {};
  if (scheme.symmetric) return {.scale = largest / (0.5f * input_steps(scheme))};
  const float scale = (high - low) / input_steps(scheme);
  const float zero = std::clamp(std::nearbyint(-low / scale), 0.f, input_steps(scheme));
  return {.scale = scale, .zero = zero + lowest_input(scheme)};
}

InputRule static_rule(const QuantizedLinear& q) {
  InputRule rule;
  to_float(q.input_scale.view(), {&rule.scale, 1});
  if (!q.input_zero.empty()) rule.zero = q.input_zero.values<int8_t>()[0];
  return rule;
}

// q - z of one value, exact in float.
float quantize_input(float x, const InputRule& rule, const ActivationScheme& scheme) {
  const float low = lowest_input(scheme);
  const float level = std::nearbyint(x / rule.scale) + rule.zero;
  return std::clamp(level, low, low + input_steps(scheme)) - rule.zero;
}

// Weights in double: exact products of level and scale, so that sums of integers stay exact.
std::vector<double> exact_row(const QuantizedLinear& q, const FloatParameters& parameters,
                              int64_t n) {
  std::vector<double> row(static_cast<size_t>(q.K));
  for (int64_t k = 0; k < q.K; ++k) {
    const auto block = static_cast<size_t>(block_index(q, n, k));
    double value = level(q, n, k);
    if (q.scheme.zero) value -= parameters.zero[block];
    if (q.scheme.scale) value *= parameters.scale[block];
    if (q.scheme.minimum) value += parameters.minimum[block];
    row[static_cast<size_t>(k)] = value;
  }
  return row;
}

Matrix plain_matmul(ConstMatrixRef x, const QuantizedLinear& q) {
  return (x.cast<double>() * dequantize(q).cast<double>().transpose()).cast<float>();
}

}  // namespace

Matrix quantized_matmul_reference(ConstMatrixRef x, const QuantizedLinear& q) {
  if (!q.scheme.activations) return plain_matmul(x, q);
  const ActivationScheme& scheme = *q.scheme.activations;
  if (scheme.is_float) {
    return plain_matmul(rounded_inputs(x, scheme, scheme.dynamic ? 1.f : static_rule(q).scale), q);
  }
  Matrix integers(x.rows(), x.cols());
  std::vector<float> scales(static_cast<size_t>(x.rows()));
  for (int64_t t = 0; t < x.rows(); ++t) {
    InputRule rule;
    if (!scheme.dynamic) {
      rule = static_rule(q);
    } else {
      rule = dynamic_rule(scheme.per_token ? ConstMatrixRef(x.row(t)) : x, scheme);
    }
    scales[static_cast<size_t>(t)] = rule.scale;
    for (int64_t k = 0; k < q.K; ++k) integers(t, k) = quantize_input(x(t, k), rule, scheme);
  }
  const FloatParameters parameters = float_parameters(q);
  Matrix y(x.rows(), q.N);
  for (int64_t n = 0; n < q.N; ++n) {
    const std::vector<double> weights = exact_row(q, parameters, n);
    for (int64_t t = 0; t < x.rows(); ++t) {
      double sum = 0.;
      for (int64_t k = 0; k < q.K; ++k) {
        sum += static_cast<double>(integers(t, k)) * weights[static_cast<size_t>(k)];
      }
      y(t, n) = static_cast<float>(sum * static_cast<double>(scales[static_cast<size_t>(t)]));
    }
  }
  return y;
}

}  // namespace nibble
