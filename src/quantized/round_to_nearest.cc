// s = fit(block), rounded to its stored type; z = clamp(rne(-lo / s), 0, 2^b - 1);
// code = clamp(rne(w / s) + z), all in float. src/quantized/range_rule.h states the rules.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/fit_block.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/round_paths.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// Below this a second thread costs more than it saves (about 20 us of work).
// Larger zero points are left to the general rounding: float may not hold their sums exactly.
constexpr float kLargestZero = 1 << 20;

QuantizedLinear empty_layer(ConstMatrixRef W, const Scheme& scheme,
                            const std::vector<int32_t>& group_of_column) {
  QuantizedLinear q;
  q.scheme = scheme;
  q.N = W.rows();
  q.K = W.cols();
  q.group_of_column = group_of_column;
  q.codes = Tensor::allocate(Dtype::kU8, {q.N, q.K});
  const int64_t blocks = block_count(scheme.blocking, q.N, q.K);
  const bool by_rows = scheme.blocking.rows == 1 && !scheme.blocking.flattened;
  const Shape shape = by_rows ? Shape{q.N, blocks / q.N} : Shape{blocks};
  q.scale.values = Tensor::allocate(scheme.scale->type, shape);
  if (scheme.zero) q.zero.values = Tensor::allocate(scheme.zero->type, shape);
  return q;
}

// The code whose weight is nearest, the lower one of two as near.
uint8_t nearest_code(const Levels& levels, const WeightRule& rule, float w) {
  size_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (size_t code = 0; code < size_t{1} << levels.bits; ++code) {
    const double distance =
        std::fabs(static_cast<double>(w) - static_cast<double>(weight(rule, levels.values[code])));
    if (distance < least) {
      least = distance;
      best = code;
    }
  }
  return static_cast<uint8_t>(best);
}

using ChooseCodes = decltype(RangeRule::codes);

// What a thread needs for a row, in the order of the groups: its own memory, unless columns move.
struct Row {
  explicit Row(const ColumnOrder& order)
      : moved_weights(order.column.size()), moved_codes(order.column.size()) {}

  const float* weights = nullptr;
  uint8_t* codes = nullptr;
  std::vector<Run> runs;
  std::vector<Extremes> extremes;   // [runs]
  std::vector<FittedBlock> blocks;  // [runs]
  std::vector<RoundRule> rules;     // [runs]
  std::vector<float> moved_weights;
  std::vector<uint8_t> moved_codes;
};

// codes: [K], of row n.
void take_row(const Blocking& blocking, const ColumnOrder& order, ConstMatrixRef W, int64_t n,
              uint8_t* codes, Row& row) {
  list_runs(blocking, order, W.cols(), n, row.runs);
  row.extremes.resize(row.runs.size());
  row.blocks.resize(row.runs.size());
  row.rules.resize(row.runs.size());
  row.weights = W.data() + n * W.outerStride();
  row.codes = codes;
  if (order.column.empty()) return;
  for (size_t i = 0; i < order.column.size(); ++i) {
    row.moved_weights[i] = row.weights[order.column[i]];
  }
  row.weights = row.moved_weights.data();
  row.codes = row.moved_codes.data();
}

void put_codes_back(const Row& row, const ColumnOrder& order, uint8_t* codes) {
  for (size_t i = 0; i < order.column.size(); ++i) codes[order.column[i]] = row.moved_codes[i];
}

// Codes of a row of an integer grid with integer zero points, from row.blocks. choose: the rule of
// another program, or null.
void round_row(Row& row, const Grid& grid, ChooseCodes choose) {
  for (size_t r = 0; r < row.runs.size(); ++r) {
    const FittedBlock& block = row.blocks[r];
    row.rules[r] = {.scale = block.scale,
                    .first = grid.lowest - static_cast<int>(block.zero),
                    .last = (1 << grid.bits) - 1};
  }
  if (choose == nullptr) {
    round_paths().back()->round(row.weights, row.runs, row.rules.data(), row.codes);
    return;
  }
  for (size_t r = 0; r < row.runs.size(); ++r) {
    const Run& run = row.runs[r];
    choose({row.weights + run.first, row.weights + run.end}, row.blocks[r], grid,
           row.codes + run.first);
  }
}

// One layer being rounded.
struct Job {
  ConstMatrixRef W;
  QuantizedLinear& q;
  ColumnOrder order;
  const Fit* fit;                          // fits each run as a block of its own, or
  const std::vector<FittedBlock>& blocks;  // without fit, the parameters of every block
  ChooseCodes choose;                      // null: round to nearest
  bool chooses_codes;
  FittedBlock* fitted = nullptr;  // [blocks] that `fit` has fitted, if they are wanted
};

FitCount process_row(const Job& job, Row& row) {
  FitCount count;
  if (job.fit != nullptr) {
    round_paths().back()->extremes(row.weights, row.runs, row.extremes.data());
    count = fit_runs(*job.fit, row.weights, row.runs, row.extremes.data(), row.blocks.data());
    if (job.fitted != nullptr) {
      std::copy(row.blocks.begin(), row.blocks.end(), job.fitted + row.runs[0].block);
    }
  } else {
    for (size_t r = 0; r < row.runs.size(); ++r) {
      row.blocks[r] = job.blocks[static_cast<size_t>(row.runs[r].block)];
    }
  }
  if (job.chooses_codes && count.failed == kNoBlock) {
    round_row(row, job.q.scheme.grid, job.choose);
  }
  return count;
}

FitCount process_rows(const Job& job, std::span<uint8_t> codes) {
  FitCount total;
#pragma omp parallel if (job.W.size() > kParallelWeights)
  {
    Row row(job.order);
    FitCount count;
#pragma omp for schedule(static)
    for (int64_t n = 0; n < job.q.N; ++n) {
      uint8_t* const out = codes.data() + n * job.q.K;
      take_row(job.q.scheme.blocking, job.order, job.W, n, out, row);
      count.add(process_row(job, row));
      put_codes_back(row, job.order, out);
    }
#pragma omp critical
    total.add(count);
  }
  return total;
}

// Fits scales in F32, stores them with their second level, and chooses zero points for what reads
// back, which the blocks returned have.
std::vector<FittedBlock> fit_two_levels(ConstMatrixRef W, const RangeRule& rule,
                                        const std::string& where, RoundedLinear& result) {
  QuantizedLinear& q = result.q;
  Scheme plain = q.scheme;
  plain.scale = Parameter{.type = Dtype::kF32, .bits = 32};
  std::vector<FittedBlock> blocks(static_cast<size_t>(block_count(plain.blocking, q.N, q.K)));
  std::vector<float> scales(blocks.size());
  const Fit fit = {rule, plain, std::as_writable_bytes(std::span(scales)), {}};
  const Job job = {W,
                   q,
                   column_order(q.group_of_column, group_count(plain.blocking, q.K)),
                   &fit,
                   blocks,
                   nullptr,
                   false,
                   blocks.data()};
  const FitCount count = process_rows(job, q.codes.mutable_values<uint8_t>());
  if (count.failed != kNoBlock) fail(W, plain, count.failed, where);
  for (size_t b = 0; b < blocks.size(); ++b) {
    if (blocks[b].is_zero) scales[b] = 0.f;
  }
  fit_second_level(W, scales, q, where);
  const StorableScales storable(q);
  std::vector<int64_t> order(blocks.size());
  std::iota(order.begin(), order.end(), 0);
  storable.round(scales, order);
  storable.store(scales, q.scale);
  for (size_t b = 0; b < blocks.size(); ++b) {
    FittedBlock& block = blocks[b];
    block.scale = scales[b];
    if (!block.is_zero && block.fitted <= block.scale / 2.f) ++result.rounding.raised_to_smallest;
    if (!q.scheme.zero) continue;
    const ZeroRange range = storable.zero_range(block.scale, order[b]);
    block.zero = std::clamp(rule.zero(block.minimum, block.scale), range.smallest, range.largest);
    q.zero.values.mutable_values<uint8_t>()[b] = static_cast<uint8_t>(block.zero);
  }
  return blocks;
}

RoundedLinear fit_and_round(ConstMatrixRef W, const Scheme& scheme, const RangeRule& rule,
                            const std::vector<int32_t>& group_of_column, const std::string& where,
                            bool chooses_codes) {
  check_fittable(W, scheme, rule, where);
  check_column_groups(group_of_column, scheme.blocking, W.cols(), where);
  RoundedLinear result;
  QuantizedLinear& q = result.q = empty_layer(W, scheme, group_of_column);
  const Fit fit = {rule, scheme, q.scale.values.mutable_bytes(),
                   scheme.zero ? q.zero.values.mutable_values<uint8_t>() : std::span<uint8_t>()};
  ColumnOrder order = column_order(group_of_column, group_count(scheme.blocking, q.K));
  const bool has_second = scheme.scale->second.has_value();
  const bool by_rows = scheme.blocking.rows == 1 && !scheme.blocking.flattened && !has_second;
  FitCount count;
  std::vector<FittedBlock> blocks;
  if (has_second) {
    blocks = fit_two_levels(W, rule, where, result);
  } else if (!by_rows) {
    count = fit_blocks(fit, W, order, blocks);
  }
  if (count.failed != kNoBlock) fail(W, scheme, count.failed, where);
  const Job job = {W,      q,          std::move(order), by_rows ? &fit : nullptr,
                   blocks, rule.codes, chooses_codes};
  count.add(process_rows(job, q.codes.mutable_values<uint8_t>()));
  if (count.failed != kNoBlock) fail(W, scheme, count.failed, where);
  result.rounding.raised_to_smallest += count.raised;
  return result;
}

// The blocks of q as round_run wants them; empty when q is not for it.
std::vector<FittedBlock> integer_blocks(const QuantizedLinear& q) {
  if (q.scheme.grid.kind != Grid::Kind::kInteger || q.scheme.minimum) return {};
  const FloatParameters parameters = float_parameters(q);
  std::vector<FittedBlock> blocks(static_cast<size_t>(block_count(q.scheme.blocking, q.N, q.K)));
  for (size_t b = 0; b < blocks.size(); ++b) {
    if (q.scheme.scale) blocks[b].fitted = blocks[b].scale = parameters.scale[b];
    if (q.scheme.zero) blocks[b].zero = parameters.zero[b];
    const float zero = blocks[b].zero;
    if (std::fabs(zero) > kLargestZero || zero != std::nearbyintf(zero)) return {};
  }
  return blocks;
}

// Any grid: each weight takes the code that reads back nearest to it.
void round_generally(ConstMatrixRef W, const QuantizedLinear& q, std::span<uint8_t> codes) {
  const FloatParameters parameters = float_parameters(q);
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < q.N; ++n) {
    std::array<float, 256> values{};
    for (int64_t k = 0; k < q.K; ++k) {
      if (k == 0 || q.scheme.grid.kind == Grid::Kind::kCodebook) load_levels(q, n, k, values);
      const Levels levels = {values, q.scheme.grid.bits, false};
      const WeightRule rule = weight_rule(q.scheme, parameters, block_index(q, n, k));
      codes[static_cast<size_t>(n * q.K + k)] = nearest_code(levels, rule, W(n, k));
    }
  }
}

}  // namespace

QuantizedLinear fit_parameters(ConstMatrixRef W, const Scheme& scheme, const RangeRule& rule,
                               const std::vector<int32_t>& group_of_column,
                               const std::string& where, ScaleRounding* rounding) {
  RoundedLinear result = fit_and_round(W, scheme, rule, group_of_column, where, false);
  if (rounding != nullptr) *rounding = result.rounding;
  return std::move(result.q);
}

RoundedLinear quantize_to_nearest(ConstMatrixRef W, const Scheme& scheme, const RangeRule& rule,
                                  const std::vector<int32_t>& group_of_column,
                                  const std::string& where) {
  return fit_and_round(W, scheme, rule, group_of_column, where, true);
}

void round_to_nearest(ConstMatrixRef W, QuantizedLinear& q) {
  Tensor codes = Tensor::allocate(Dtype::kU8, {q.N, q.K});
  const std::vector<FittedBlock> blocks = integer_blocks(q);
  if (blocks.empty()) {
    round_generally(W, q, codes.mutable_values<uint8_t>());
  } else {
    const Job job = {
        W,       q,      column_order(q.group_of_column, group_count(q.scheme.blocking, q.K)),
        nullptr, blocks, nullptr,
        true};
    process_rows(job, codes.mutable_values<uint8_t>());
  }
  q.codes = std::move(codes);
}

}  // namespace nibble
