// W[n, k] = (level(code[n, k]) - zero) * scale + minimum, in float, each operation rounded once. A
// parameter that the scheme does not have takes no part, so that a zero keeps its sign.
#include "src/quantized/quantized_linear.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/round_paths.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// Elements [first, first + out.size()) of a stored array as they are: floats, or small integers.
void stored_values(const Tensor& tensor, int64_t first, std::span<float> out) {
  const auto begin = static_cast<size_t>(first);
  if (tensor.dtype() == Dtype::kU8) {
    const auto values = tensor.values<uint8_t>().subspan(begin, out.size());
    std::copy(values.begin(), values.end(), out.begin());
  } else if (tensor.dtype() == Dtype::kI8) {
    const auto values = tensor.values<int8_t>().subspan(begin, out.size());
    std::copy(values.begin(), values.end(), out.begin());
  } else {
    const size_t bytes = static_cast<size_t>(dtype_bits(tensor.dtype())) / 8;
    const auto part = tensor.bytes().subspan(begin * bytes, out.size() * bytes);
    to_float({tensor.dtype(), {static_cast<int64_t>(out.size())}, part, Device::kCpu}, out);
  }
}

float stored_value(const Tensor& tensor, int64_t index) {
  float value = 0.f;
  stored_values(tensor, index, {&value, 1});
  return value;
}

std::vector<float> values_of(const std::optional<Parameter>& parameter,
                             const ParameterValues& values, int64_t N) {
  if (!parameter) return {};
  std::vector<float> result(static_cast<size_t>(values.values.elements()));
  stored_values(values.values, 0, result);
  if (!parameter->table.empty()) {
    for (float& value : result) value = parameter->table[static_cast<size_t>(value)];
  }
  if (parameter->second) {
    std::vector<float> second(static_cast<size_t>(values.second.elements()));
    stored_values(values.second, 0, second);
    const auto blocks = static_cast<int64_t>(result.size());
    for (int64_t i = 0; i < blocks; ++i) {
      float& value = result[static_cast<size_t>(i)];
      const auto at = static_cast<size_t>(second_index(*parameter->second, i, blocks, N));
      value = second_level_value(*parameter->second, value, second[at], values.offset);
    }
  }
  return result;
}

// What a thread needs for a row: its runs, and when columns have groups, codes and weights [K] in
// the order of those.
struct Ordered {
  std::vector<Run> runs;
  std::vector<uint8_t> codes;
  std::vector<float> weights;
};

void dequantize_row(const QuantizedLinear& q, const FloatParameters& parameters,
                    const ColumnOrder& order, const Levels& levels, int64_t n, Ordered& ordered,
                    float* out) {
  const RoundPath& path = *round_paths().back();
  const uint8_t* codes = q.codes.values<uint8_t>().data() + n * q.K;
  const size_t moved = order.column.size();
  for (size_t i = 0; i < moved; ++i) ordered.codes[i] = codes[order.column[i]];
  const uint8_t* in = moved > 0 ? ordered.codes.data() : codes;
  float* weights = moved > 0 ? ordered.weights.data() : out;
  list_runs(q.scheme.blocking, order, q.K, n, ordered.runs);
  for (const Run& run : ordered.runs) {
    path.dequantize({in + run.first, in + run.end}, levels,
                    weight_rule(q.scheme, parameters, run.block), weights + run.first);
  }
  for (size_t i = 0; i < moved; ++i) out[order.column[i]] = ordered.weights[i];
}

// A row with codebooks: runs end where the parameters or the codebook may change.
void dequantize_codebook_row(const QuantizedLinear& q, const FloatParameters& parameters, int64_t n,
                             std::span<float, 256> levels, float* out) {
  const RoundPath& path = *round_paths().back();
  const uint8_t* codes = q.codes.values<uint8_t>().data() + n * q.K;
  for (int64_t k = 0; k < q.K;) {
    int64_t end = q.group_of_column.empty() ? block_end(q.scheme.blocking, q.K, n, k) : k + 1;
    end = std::min(end, block_end(q.scheme.codebook_blocking, q.K, n, k));
    load_levels(q, n, k, levels);
    const WeightRule rule = weight_rule(q.scheme, parameters, block_index(q, n, k));
    path.dequantize({codes + k, static_cast<size_t>(end - k)}, {levels, q.scheme.grid.bits, false},
                    rule, out + k);
    k = end;
  }
}

}  // namespace

void load_levels(const QuantizedLinear& q, int64_t n, int64_t k, std::span<float, 256> levels) {
  if (q.scheme.grid.kind == Grid::Kind::kTable) {
    std::copy(q.scheme.grid.table.begin(), q.scheme.grid.table.end(), levels.begin());
  } else if (q.scheme.grid.kind == Grid::Kind::kCodebook) {
    const int64_t book = block_at(q.scheme.codebook_blocking, q.K, n, k);
    const auto entries = size_t{1} << q.scheme.grid.bits;
    stored_values(q.codebooks, book << q.scheme.grid.bits, levels.first(entries));
  } else {
    for (size_t i = 0; i < size_t{1} << q.scheme.grid.bits; ++i) {
      levels[i] = static_cast<float>(static_cast<int>(i) + q.scheme.grid.lowest);
    }
  }
}

WeightRule weight_rule(const Scheme& scheme, const FloatParameters& parameters, int64_t block) {
  const auto at = static_cast<size_t>(block);
  WeightRule rule;
  if (scheme.scale) rule.scale = parameters.scale[at];
  if (scheme.zero) rule.zero = parameters.zero[at];
  rule.has_minimum = scheme.minimum.has_value();
  if (rule.has_minimum) rule.minimum = parameters.minimum[at];
  return rule;
}

int64_t block_index(const QuantizedLinear& q, int64_t n, int64_t k) {
  if (q.group_of_column.empty()) return block_at(q.scheme.blocking, q.K, n, k);
  const int64_t first = block_at(q.scheme.blocking, q.K, n, 0);
  return first + q.group_of_column[static_cast<size_t>(k)];
}

float parameter_value(const Parameter& parameter, const ParameterValues& values, int64_t index,
                      int64_t N) {
  float value = stored_value(values.values, index);
  if (!parameter.table.empty()) value = parameter.table[static_cast<size_t>(value)];
  if (!parameter.second) return value;
  const int64_t blocks = values.values.elements();
  const float second =
      stored_value(values.second, second_index(*parameter.second, index, blocks, N));
  return second_level_value(*parameter.second, value, second, values.offset);
}

BlockParameters block_parameters(const QuantizedLinear& q, int64_t n, int64_t k) {
  const int64_t block = block_index(q, n, k);
  BlockParameters result;
  if (q.scheme.scale) result.scale = parameter_value(*q.scheme.scale, q.scale, block, q.N);
  if (q.scheme.zero) result.zero = parameter_value(*q.scheme.zero, q.zero, block, q.N);
  if (q.scheme.minimum) result.minimum = parameter_value(*q.scheme.minimum, q.minimum, block, q.N);
  return result;
}

float level(const QuantizedLinear& q, int64_t n, int64_t k) {
  const int code = q.codes.values<uint8_t>()[static_cast<size_t>(n * q.K + k)];
  switch (q.scheme.grid.kind) {
    case Grid::Kind::kInteger:
      return static_cast<float>(code + q.scheme.grid.lowest);
    case Grid::Kind::kTable:
      return q.scheme.grid.table[static_cast<size_t>(code)];
    case Grid::Kind::kCodebook:
      break;
  }
  const int64_t book = block_at(q.scheme.codebook_blocking, q.K, n, k);
  return stored_value(q.codebooks, (book << q.scheme.grid.bits) + code);
}

FloatParameters float_parameters(const QuantizedLinear& q) {
  return {.scale = values_of(q.scheme.scale, q.scale, q.N),
          .zero = values_of(q.scheme.zero, q.zero, q.N),
          .minimum = values_of(q.scheme.minimum, q.minimum, q.N)};
}

void dequantize_rows(const QuantizedLinear& q, const FloatParameters& parameters, int64_t first,
                     MatrixRef out) {
  const Grid& grid = q.scheme.grid;
  const ColumnOrder order = column_order(q.group_of_column, group_count(q.scheme.blocking, q.K));
#pragma omp parallel if (out.size() > kParallelWeights)
  {
    Ordered ordered;
    ordered.codes.resize(order.column.size());
    ordered.weights.resize(order.column.size());
    std::array<float, 256> levels{};
    if (grid.kind != Grid::Kind::kCodebook) load_levels(q, 0, 0, levels);
    const Levels view = {levels, grid.bits, grid.kind == Grid::Kind::kInteger};
#pragma omp for schedule(static)
    for (int64_t row = 0; row < out.rows(); ++row) {
      float* weights = out.data() + row * out.outerStride();
      if (grid.kind == Grid::Kind::kCodebook) {
        dequantize_codebook_row(q, parameters, first + row, levels, weights);
      } else {
        dequantize_row(q, parameters, order, view, first + row, ordered, weights);
      }
    }
  }
}

Matrix dequantize(const QuantizedLinear& q) {
  Matrix W(q.N, q.K);
  dequantize_rows(q, float_parameters(q), 0, W);
  return W;
}

}  // namespace nibble
