// W[n, k] = (level(code[n, k]) - zero) * scale + minimum, in float, each operation rounded once. A
// parameter that the scheme does not have takes no part, so that a zero keeps its sign.
#include "src/quantized/quantized_linear.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "src/quantized/round_paths.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// Below this a second thread costs more than it saves (about 20 us of work).
constexpr int64_t kParallelWeights = 1 << 16;

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

// Which second-level value parameter `index` of `blocks` uses.
int64_t second_index(const SecondLevel& second, int64_t index, int64_t blocks, int64_t N) {
  if (second.block == kAll) return 0;
  return index / (second.block == kOneRow ? std::max<int64_t>(blocks / N, 1) : second.block);
}

float apply_second(const SecondLevel& level, float value, float second, float offset) {
  const float product = level.divides ? value / second : value * second;
  return level.has_offset ? product + offset : product;
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
      value = apply_second(*parameter->second, value, second[at], values.offset);
    }
  }
  return result;
}

int64_t block_at(const Blocking& blocking, int64_t K, int64_t n, int64_t k) {
  if (blocking.flattened) return (n * K + k) / blocking.columns;
  const int64_t row = blocking.rows == kAll ? 0 : n / blocking.rows;
  const int64_t group = blocking.columns == kAll ? 0 : k / blocking.columns;
  return row * group_count(blocking, K) + group;
}

// First column after k that may be in another block than column k of row n.
int64_t block_end(const Blocking& blocking, int64_t K, int64_t n, int64_t k) {
  if (blocking.columns == kAll) return K;
  const int64_t start = blocking.flattened ? (n * K + k) % blocking.columns : k % blocking.columns;
  return std::min(K, k + blocking.columns - start);
}

// The 2^bits levels of a block of codebook_blocking, or of the table; integers have none.
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

WeightRule rule_of_block(const QuantizedLinear& q, const FloatParameters& parameters,
                         int64_t block) {
  const auto at = static_cast<size_t>(block);
  WeightRule rule;
  if (q.scheme.scale) rule.scale = parameters.scale[at];
  if (q.scheme.zero) rule.zero = parameters.zero[at];
  rule.has_minimum = q.scheme.minimum.has_value();
  if (rule.has_minimum) rule.minimum = parameters.minimum[at];
  return rule;
}

// First column after k whose parameters or codebook may differ from those of column k of row n.
int64_t run_end(const QuantizedLinear& q, int64_t n, int64_t k) {
  if (!q.group_of_column.empty()) return k + 1;
  const int64_t end = block_end(q.scheme.blocking, q.K, n, k);
  if (q.scheme.grid.kind != Grid::Kind::kCodebook) return end;
  return std::min(end, block_end(q.scheme.codebook_blocking, q.K, n, k));
}

// levels: of the table or the integers; with codebooks it is filled here.
void dequantize_row(const QuantizedLinear& q, const FloatParameters& parameters, int64_t n,
                    std::span<float, 256> levels, float* out) {
  const RoundPath& path = *round_paths().back();
  const Grid& grid = q.scheme.grid;
  const Levels view = {levels, grid.bits, grid.kind == Grid::Kind::kInteger};
  const uint8_t* codes = q.codes.values<uint8_t>().data() + n * q.K;
  for (int64_t k = 0; k < q.K;) {
    const int64_t end = run_end(q, n, k);
    if (grid.kind == Grid::Kind::kCodebook) load_levels(q, n, k, levels);
    const WeightRule rule = rule_of_block(q, parameters, block_index(q, n, k));
    if (end == k + 1) {
      out[k] = weight(rule, levels[codes[k]]);
    } else {
      path.dequantize({codes + k, static_cast<size_t>(end - k)}, view, rule, out + k);
    }
    k = end;
  }
}

}  // namespace

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
  return apply_second(*parameter.second, value, second, values.offset);
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
#pragma omp parallel if (out.size() > kParallelWeights)
  {
    std::array<float, 256> levels{};
    if (q.scheme.grid.kind != Grid::Kind::kCodebook) load_levels(q, 0, 0, levels);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < out.rows(); ++row) {
      dequantize_row(q, parameters, first + row, levels, out.data() + row * out.outerStride());
    }
  }
}

Matrix dequantize(const QuantizedLinear& q) {
  Matrix W(q.N, q.K);
  dequantize_rows(q, float_parameters(q), 0, W);
  return W;
}

}  // namespace nibble
