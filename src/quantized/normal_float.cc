#include "src/quantized/normal_float.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/quantized/finite_weights.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kParallelBlocks = 1024;
constexpr float kSmallestScale = 1e-38F;

constexpr std::array<float, 16> kNf4 = {-1.0F,
                                        -0.6961928009986877F,
                                        -0.5250730514526367F,
                                        -0.39491748809814453F,
                                        -0.28444138169288635F,
                                        -0.18477343022823334F,
                                        -0.09105003625154495F,
                                        0.0F,
                                        0.07958029955625534F,
                                        0.16093020141124725F,
                                        0.24611230194568634F,
                                        0.33791524171829224F,
                                        0.44070982933044434F,
                                        0.5626170039176941F,
                                        0.7229568362236023F,
                                        1.0F};

// In the order of the bits: sign, exponent, mantissa; not E2M1.
constexpr std::array<float, 16> kFp4 = {
    0.0F,  0.0625F / 12,  8.0F / 12,  1.0F,  4.0F / 12,  6.0F / 12,  2.0F / 12,  3.0F / 12,
    -0.0F, -0.0625F / 12, -8.0F / 12, -1.0F, -4.0F / 12, -6.0F / 12, -2.0F / 12, -3.0F / 12};

Scheme table_scheme(std::string name, std::span<const float> table, int64_t block,
                    bool double_quant) {
  Scheme scheme;
  scheme.grid = {.kind = Grid::Kind::kTable,
                 .bits = 4,
                 .name = std::move(name),
                 .table = {table.begin(), table.end()}};
  scheme.blocking = {.rows = 1, .columns = block, .flattened = true};
  scheme.scale = Parameter{.type = Dtype::kF32, .bits = 32};
  return double_quant ? double_quantized(std::move(scheme)) : scheme;
}

// A table in ascending order, and where its levels change.
struct Thresholds {
  explicit Thresholds(const std::vector<float>& table) : codes(table.size()) {
    std::iota(codes.begin(), codes.end(), uint8_t{0});
    std::stable_sort(codes.begin(), codes.end(),
                     [&](uint8_t a, uint8_t b) { return table[a] < table[b]; });
    for (size_t i = 0; i + 1 < table.size(); ++i) {
      bounds.push_back((table[codes[i]] + table[codes[i + 1]]) / 2.F);
    }
  }
  // The number of bounds below x; their comparisons are independent, so that they vectorise.
  uint8_t code(float x) const {
    size_t below = 0;
    for (const float bound : bounds) below += x > bound ? 1 : 0;
    return codes[below];
  }

  std::vector<uint8_t> codes;
  std::vector<float> bounds;
};

float largest_magnitude(std::span<const float> values) {
  float largest = 0.F;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  return largest;
}

}  // namespace

Scheme nf4_scheme(int64_t block, bool double_quant) {
  return table_scheme("nf4", kNf4, block, double_quant);
}

Scheme fp4_scheme(int64_t block, bool double_quant) {
  return table_scheme("fp4", kFp4, block, double_quant);
}

RoundedLinear quantize_to_table(ConstMatrixRef W, const Scheme& scheme, const std::string& where) {
  check_finite(W, where);
  RoundedLinear rounded;
  QuantizedLinear& q = rounded.q;
  q.scheme = scheme;
  q.N = W.rows();
  q.K = W.cols();
  q.codes = Tensor::allocate(Dtype::kU8, {q.N, q.K});
  const Matrix flat = W;  // rows one after the other
  const int64_t block = scheme.blocking.columns;
  const int64_t blocks = block_count(scheme.blocking, q.N, q.K);
  const Thresholds thresholds(scheme.grid.table);
  std::vector<float> scales(static_cast<size_t>(blocks));
  uint8_t* codes = q.codes.mutable_values<uint8_t>().data();
#pragma omp parallel for schedule(static) if (blocks > kParallelBlocks)
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = b * block;
    const int64_t count = std::min(block, W.size() - first);
    const std::span<const float> values(flat.data() + first, static_cast<size_t>(count));
    float scale = largest_magnitude(values);
    const bool is_short = count < block;
    if (is_short) scale = std::max(scale, kSmallestScale);
    const float reciprocal = 1.F / std::max(scale, kSmallestScale);
    for (int64_t i = 0; i < count; ++i) {
      const float w = values[static_cast<size_t>(i)];
      const float x = is_short ? w / scale : w * reciprocal;
      codes[first + i] = thresholds.code(std::clamp(x, -1.F, 1.F));
    }
    scales[static_cast<size_t>(b)] = scale;
  }
  if (scheme.scale->second) {
    q.scale = double_quantize(scales);
  } else {
    q.scale.values = Tensor::copy_of(Dtype::kF32, {blocks}, std::span<const float>(scales));
  }
  return rounded;
}

}  // namespace nibble
