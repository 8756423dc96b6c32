#include "src/quantized/comparison.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/round_paths.h"
#include "src/quantized/scheme.h"
#include "src/quantized/vector_clones.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

// The two smallest and the two largest levels; equal where there is but one.
struct LevelEnds {
  float low = 0.f;
  float above_low = 0.f;
  float below_high = 0.f;
  float high = 0.f;
};

LevelEnds ends_of(std::span<const float> levels) {
  std::vector<float> sorted;
  std::copy_if(levels.begin(), levels.end(), std::back_inserter(sorted),
               [](float level) { return std::isfinite(level); });
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  if (sorted.empty()) return {};
  const size_t last = sorted.size() - 1;
  const size_t second = std::min<size_t>(1, last);
  return {sorted[0], sorted[second], sorted[last - second], sorted[last]};
}

// Weights outside [low, high] are clipped.
struct Limits {
  float low;
  float high;
};

Limits limits_of(const LevelEnds& ends, const WeightRule& rule) {
  double low = weight(rule, ends.low);
  double above_low = weight(rule, ends.above_low);
  double below_high = weight(rule, ends.below_high);
  double high = weight(rule, ends.high);
  if (low > high) {  // a negative scale
    std::swap(low, high);
    std::swap(above_low, below_high);
  }
  const double slack = (high - low) * 0x1p-9;
  return {static_cast<float>(low - (above_low - low) / 2. - slack),
          static_cast<float>(high + (high - below_high) / 2. + slack)};
}

constexpr int64_t kVectorLanes = 8;
// GCC's and Clang's vector extensions.
typedef float Floats __attribute__((vector_size(kVectorLanes * sizeof(float))));
typedef float LooseFloats
    __attribute__((vector_size(kVectorLanes * sizeof(float)), aligned(alignof(float)), may_alias));
typedef double Doubles __attribute__((vector_size(kVectorLanes * sizeof(double))));
typedef int32_t Integers __attribute__((vector_size(kVectorLanes * sizeof(int32_t))));

// Of a row; weight i of a run in lane i mod 8.
struct RowSums {
  Doubles weights = {};
  Doubles error = {};
  Integers clipped = {};  // minus their number
};

// weights, read: [count]
NIBBLE_VECTOR_CLONES void add_run(const float* weights, const float* read, int64_t count,
                                  const Limits& limits, RowSums& row) {
  RowSums sums = row;
  const Floats low = Floats{} + limits.low;
  const Floats high = Floats{} + limits.high;
  int64_t i = 0;
  for (; i + kVectorLanes <= count; i += kVectorLanes) {
    const Floats w = *reinterpret_cast<const LooseFloats*>(weights + i);
    const Floats q = *reinterpret_cast<const LooseFloats*>(read + i);
    const Doubles exact = __builtin_convertvector(w, Doubles);
    const Doubles difference = exact - __builtin_convertvector(q, Doubles);
    sums.weights += exact * exact;
    sums.error += difference * difference;
    sums.clipped += (w < low) | (w > high);
  }
  for (int64_t lane = 0; i < count; ++i, ++lane) {
    const double exact = weights[i];
    const double difference = exact - static_cast<double>(read[i]);
    sums.weights[lane] += exact * exact;
    sums.error[lane] += difference * difference;
    if (weights[i] < limits.low || weights[i] > limits.high) sums.clipped[lane] -= 1;
  }
  row = sums;
}

template <typename Lanes>
auto sum(const Lanes& lanes) {
  auto total = lanes[0];
  for (int64_t lane = 1; lane < kVectorLanes; ++lane) total += lanes[lane];
  return total;
}

// A thread's memory.
struct Scratch {
  std::vector<Run> runs;
  std::vector<uint8_t> codes;  // [K] in the order of the groups, where columns have some
  std::vector<float> weights;  // likewise
  std::vector<float> read;     // [K]
};

// What all rows share.
struct Layer {
  ConstMatrixRef W;
  const QuantizedLinear& q;
  FloatParameters parameters;
  ColumnOrder order;
  std::array<float, 256> levels;  // but for codebooks
  LevelEnds ends;
};

void add_row(const Layer& layer, int64_t n, Scratch& scratch, RowSums& sums) {
  const QuantizedLinear& q = layer.q;
  const uint8_t* codes = q.codes.values<uint8_t>().data() + n * q.K;
  const float* weights = layer.W.data() + n * layer.W.outerStride();
  const std::vector<int32_t>& moved = layer.order.column;
  for (size_t i = 0; i < moved.size(); ++i) {
    scratch.codes[i] = codes[moved[i]];
    scratch.weights[i] = weights[moved[i]];
  }
  if (!moved.empty()) {
    codes = scratch.codes.data();
    weights = scratch.weights.data();
  }
  const Levels levels = {layer.levels, q.scheme.grid.bits,
                         q.scheme.grid.kind == Grid::Kind::kInteger};
  list_runs(q.scheme.blocking, layer.order, q.K, n, scratch.runs);
  for (const Run& run : scratch.runs) {
    const WeightRule rule = weight_rule(q.scheme, layer.parameters, run.block);
    float* read = scratch.read.data() + run.first;
    round_paths().back()->dequantize({codes + run.first, codes + run.end}, levels, rule, read);
    add_run(weights + run.first, read, run.end - run.first, limits_of(layer.ends, rule), sums);
  }
}

// With codebooks: runs end where the parameters or the codebook may change.
void add_codebook_row(const Layer& layer, int64_t n, Scratch& scratch, RowSums& sums) {
  const QuantizedLinear& q = layer.q;
  const uint8_t* codes = q.codes.values<uint8_t>().data() + n * q.K;
  const float* weights = layer.W.data() + n * layer.W.outerStride();
  std::array<float, 256> values{};
  for (int64_t k = 0; k < q.K;) {
    int64_t end = q.group_of_column.empty() ? block_end(q.scheme.blocking, q.K, n, k) : k + 1;
    end = std::min(end, block_end(q.scheme.codebook_blocking, q.K, n, k));
    load_levels(q, n, k, values);
    const WeightRule rule = weight_rule(q.scheme, layer.parameters, block_index(q, n, k));
    round_paths().back()->dequantize({codes + k, codes + end}, {values, q.scheme.grid.bits, false},
                                     rule, scratch.read.data());
    const LevelEnds ends = ends_of(std::span(values).first(size_t{1} << q.scheme.grid.bits));
    add_run(weights + k, scratch.read.data(), end - k, limits_of(ends, rule), sums);
    k = end;
  }
}

Layer make_layer(ConstMatrixRef W, const QuantizedLinear& q) {
  Layer layer = {.W = W,
                 .q = q,
                 .parameters = float_parameters(q),
                 .order = column_order(q.group_of_column, group_count(q.scheme.blocking, q.K)),
                 .levels = {},
                 .ends = {}};
  if (q.scheme.grid.kind == Grid::Kind::kCodebook) return layer;
  load_levels(q, 0, 0, layer.levels);
  layer.ends = ends_of(std::span(layer.levels).first(size_t{1} << q.scheme.grid.bits));
  return layer;
}

}  // namespace

Comparison compare(ConstMatrixRef W, const QuantizedLinear& q) {
  const Layer layer = make_layer(W, q);
  const auto add = q.scheme.grid.kind == Grid::Kind::kCodebook ? add_codebook_row : add_row;
  std::vector<double> weights(static_cast<size_t>(q.N));
  std::vector<double> errors(static_cast<size_t>(q.N));
  int64_t clipped = 0;
#pragma omp parallel if (W.size() > kParallelWeights)
  {
    Scratch scratch = {.runs = {},
                       .codes = std::vector<uint8_t>(layer.order.column.size()),
                       .weights = std::vector<float>(layer.order.column.size()),
                       .read = std::vector<float>(static_cast<size_t>(q.K))};
#pragma omp for schedule(static) reduction(+ : clipped)
    for (int64_t n = 0; n < q.N; ++n) {
      RowSums sums;
      add(layer, n, scratch, sums);
      weights[static_cast<size_t>(n)] = sum(sums.weights);
      errors[static_cast<size_t>(n)] = sum(sums.error);
      clipped -= sum(sums.clipped);
    }
  }
  return {.weights = std::accumulate(weights.begin(), weights.end(), 0.),
          .error = std::accumulate(errors.begin(), errors.end(), 0.),
          .clipped = clipped};
}

double relative_error(const Comparison& comparison) {
  return comparison.weights == 0. ? 0. : std::sqrt(comparison.error / comparison.weights);
}

double relative_error(ConstMatrixRef W, const QuantizedLinear& q) {
  return relative_error(compare(W, q));
}

}  // namespace nibble
