#include "kernels/int8_matmul.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "kernels/int8_paths.h"
#include "kernels/matmul.h"
#include "src/quantized/float_inputs.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/convert.h"
#include "src/tensor/cpu_features.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int64_t kMostInputs = 65536;  // 255 * 128 * K fits in int32
constexpr int64_t kTileTokens = 64;
constexpr float kLowest = -128.F;
constexpr float kHighest = 127.F;
constexpr float kSteps = 255.F;

struct InputRule {
  float scale = 1.F;
  int32_t zero = 0;
};

// As src/quantized/matmul_reference.cc.
InputRule dynamic_rule(float low, float high, bool symmetric) {
  const float largest = std::max(-low, high);
  if (largest == 0.F) return {};
  if (symmetric) return {.scale = largest / (0.5F * kSteps)};
  const float scale = (high - low) / kSteps;
  const float zero = std::clamp(std::nearbyint(-low / scale), 0.F, kSteps);
  return {.scale = scale, .zero = static_cast<int32_t>(zero + kLowest)};
}

InputRule dynamic_rule(ConstMatrixRef x, const ActivationScheme& scheme) {
  return dynamic_rule(std::min(x.minCoeff(), 0.F), std::max(x.maxCoeff(), 0.F), scheme.symmetric);
}

// Rows of x as integers, padded with zeros to `stride`.
struct QuantizedInputs {
  std::vector<int8_t> values;  // [T][stride]
  int64_t stride = 0;
  std::vector<int32_t> sums;     // [T]
  std::vector<InputRule> rules;  // [T]
};

// q - z. Rounds by addition: nearbyint() is a call without SSE 4.1, and limits at integers commute
// with rounding.
float quantized(float x, const InputRule& rule) {
  constexpr float kRounder = 0x1.8p23F;
  const auto zero = static_cast<float>(rule.zero);
  const float level = std::clamp(x / rule.scale, kLowest - zero, kHighest - zero);
  return (level + kRounder) - kRounder;
}

class InputRules {
 public:
  InputRules(ConstMatrixRef x, const ActivationScheme& scheme, const InputRule& fixed)
      : scheme_(scheme), shared_(fixed) {
    if (scheme.dynamic && !scheme.per_token) shared_ = dynamic_rule(x, scheme);
  }
  InputRule of_row(ConstMatrixRef row) const {
    return scheme_.dynamic && scheme_.per_token ? dynamic_rule(row, scheme_) : shared_;
  }

 private:
  const ActivationScheme& scheme_;
  InputRule shared_;
};

QuantizedInputs quantize_inputs(ConstMatrixRef x, const Int8Linear& w, bool threads) {
  QuantizedInputs inputs;
  inputs.stride = (x.cols() + 3) / 4 * 4;
  inputs.values.assign(static_cast<size_t>(x.rows() * inputs.stride), 0);
  inputs.sums.resize(static_cast<size_t>(x.rows()));
  inputs.rules.resize(static_cast<size_t>(x.rows()));
  const InputRules rules(x, w.activations, {.scale = w.input_scale, .zero = w.input_zero});
#pragma omp parallel for schedule(static) if (threads)
  for (int64_t t = 0; t < x.rows(); ++t) {
    const InputRule rule = rules.of_row(x.row(t));
    const float* from = x.row(t).data();
    int8_t* to = inputs.values.data() + t * inputs.stride;
    int32_t sum = 0;
    for (int64_t k = 0; k < x.cols(); ++k) {
      to[k] = static_cast<int8_t>(static_cast<int32_t>(quantized(from[k], rule)) + rule.zero);
      sum += to[k];
    }
    inputs.sums[static_cast<size_t>(t)] = sum;
    inputs.rules[static_cast<size_t>(t)] = rule;
  }
  return inputs;
}

// y [T, columns of the panel] from the sums of one panel.
void apply_scales(const int32_t* sums, const Int8Linear& w, int64_t first, const InputRule* rules,
                  MatrixRef y, Accumulate accumulate) {
  std::array<float, kInt8Panel> values;
  const float* scale = w.scale.data() + first;
  for (int64_t t = 0; t < y.rows(); ++t) {
    const int32_t* row = sums + t * kInt8Panel;
    for (int64_t i = 0; i < y.cols(); ++i) {
      values[static_cast<size_t>(i)] = static_cast<float>(row[i]);
    }
    if (rules[t].zero != 0) {
      for (int64_t i = 0; i < y.cols(); ++i) {
        values[static_cast<size_t>(i)] = static_cast<float>(
            int64_t{row[i]} - int64_t{rules[t].zero} * w.sum[static_cast<size_t>(first + i)]);
      }
    }
    float* out = y.row(t).data();
    const float start = accumulate == Accumulate::kYes ? 1.F : 0.F;
    for (int64_t i = 0; i < y.cols(); ++i) {
      const float value = values[static_cast<size_t>(i)] * (rules[t].scale * scale[i]);
      out[i] = start != 0.F ? out[i] + value : value;
    }
  }
}

// [N]
std::vector<float> row_scales(const QuantizedLinear& q) {
  std::vector<float> scales;
  if (is_progressive(q.scheme)) {
    scales.resize(static_cast<size_t>(q.N));
    to_float(q.scale.second.view(), scales);
  } else {
    scales = float_parameters(q).scale;
    scales.resize(static_cast<size_t>(q.N), scales.front());
  }
  return scales;
}

// The integer weights of row n, [K].
void load_row(const QuantizedLinear& q, int64_t n, std::span<int8_t> row) {
  if (is_progressive(q.scheme)) {
    integer_row(q, n, row);
    return;
  }
  const uint8_t* codes = q.codes.values<uint8_t>().data() + n * q.K;
  std::transform(codes, codes + q.K, row.begin(), [&](uint8_t code) {
    return static_cast<int8_t>(int{code} + q.scheme.grid.lowest);
  });
}

}  // namespace

std::span<const Int8Path* const> int8_paths() {
  static const std::array<const Int8Path*, 3> all = {&kScalarInt8, &kAvx2Int8, &kVnniInt8};
  const CpuFeatures& cpu = cpu_features();
  return std::span(all).first(cpu.avx512_vnni ? 3 : cpu.avx2 ? 2 : 1);
}

int64_t Int8Linear::bytes() const {
  return std::ssize(weights.bytes()) + std::ssize(scale) * int64_t{4} +
         std::ssize(sum) * int64_t{4};
}

bool can_run_int8(const QuantizedLinear& q) {
  const Scheme& scheme = q.scheme;
  const bool has_int8_inputs =
      scheme.activations && !scheme.activations->is_float && scheme.activations->bits == 8;
  if (!has_int8_inputs || q.K > kMostInputs) return false;
  if (is_progressive(scheme)) return fits_int8(q);
  return scheme.grid.kind == Grid::Kind::kInteger && scheme.grid.bits == 8 &&
         scheme.grid.lowest == -128 && scheme.symmetric() && scheme.scale &&
         !scheme.blocking.flattened &&
         (scheme.blocking.columns == kAll || scheme.blocking.columns >= q.K) &&
         (scheme.blocking.rows == 1 || scheme.blocking.rows == kAll);
}

Int8Linear make_int8(const QuantizedLinear& q) {
  if (!can_run_int8(q)) throw Error("", describe(q.scheme), "has no int8 product");
  Int8Linear w;
  w.N = q.N;
  w.K = q.K;
  w.path = int8_paths().back();
  w.activations = *q.scheme.activations;
  if (!w.activations.dynamic) {
    to_float(q.input_scale.view(), {&w.input_scale, 1});
    if (!q.input_zero.empty()) w.input_zero = q.input_zero.values<int8_t>()[0];
  }
  w.scale = row_scales(q);
  w.sum.resize(static_cast<size_t>(q.N));
  const int64_t panels = (q.N + kInt8Panel - 1) / kInt8Panel;
  const int64_t panel_bytes = w.path->panel_bytes(q.K);
  w.weights = Tensor::allocate(Dtype::kU8, {panels * panel_bytes});
  std::byte* packed = w.weights.mutable_bytes().data();
#pragma omp parallel for schedule(static)
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t first = panel * kInt8Panel;
    const int64_t rows = std::min(kInt8Panel, q.N - first);
    std::vector<int8_t> values(static_cast<size_t>(rows * q.K));
    for (int64_t r = 0; r < rows; ++r) {
      const auto row =
          std::span(values).subspan(static_cast<size_t>(r * q.K), static_cast<size_t>(q.K));
      load_row(q, first + r, row);
      w.sum[static_cast<size_t>(first + r)] = std::accumulate(row.begin(), row.end(), int32_t{0});
    }
    w.path->pack_panel(values.data(), rows, q.K, packed + panel * panel_bytes);
  }
  return w;
}

void int8_matmul(ConstMatrixRef x, const Int8Linear& w, MatrixRef y, Accumulate accumulate) {
  int8_matmul_columns(x, w, 0, y, accumulate);
}

void int8_matmul_columns(ConstMatrixRef x, const Int8Linear& w, int64_t first_output, MatrixRef y,
                         Accumulate accumulate) {
  assert(first_output % kInt8Panel == 0);
  const int64_t T = x.rows();
  if (T == 0) return;
  const bool threads = omp_in_parallel() == 0;
  const QuantizedInputs inputs = quantize_inputs(x, w, threads);
  const int64_t panels = (y.cols() + kInt8Panel - 1) / kInt8Panel;
  const int64_t panel_bytes = w.path->panel_bytes(w.K);
  const std::byte* packed = w.weights.bytes().data() + first_output / kInt8Panel * panel_bytes;
#pragma omp parallel for schedule(static) collapse(2) if (threads)
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t tile = 0; tile < (T + kTileTokens - 1) / kTileTokens; ++tile) {
      std::array<int32_t, kTileTokens * kInt8Panel> sums;
      const int64_t first = tile * kTileTokens;
      const int64_t rows = std::min(kTileTokens, T - first);
      const int64_t column = panel * kInt8Panel;
      w.path->multiply(inputs.values.data() + first * inputs.stride, inputs.stride,
                       inputs.sums.data() + first, rows, packed + panel * panel_bytes, w.K,
                       sums.data());
      apply_scales(sums.data(), w, first_output + column, inputs.rules.data() + first,
                   y.block(first, column, rows, std::min(kInt8Panel, y.cols() - column)),
                   accumulate);
    }
  }
}

Matrix simulate_activations(ConstMatrixRef x, const ActivationScheme& scheme, float input_scale,
                            int32_t input_zero) {
  if (scheme.is_float) return rounded_inputs(x, scheme, input_scale);
  const InputRules rules(x, scheme, {.scale = input_scale, .zero = input_zero});
  Matrix simulated(x.rows(), x.cols());
  for (int64_t t = 0; t < x.rows(); ++t) {
    const InputRule rule = rules.of_row(x.row(t));
    for (int64_t k = 0; k < x.cols(); ++k) {
      simulated(t, k) = quantized(x(t, k), rule) * rule.scale;
    }
  }
  return simulated;
}

}  // namespace nibble
