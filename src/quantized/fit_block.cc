#include "src/quantized/fit_block.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/finite_weights.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/round_paths.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// Weights of a block whose extremes are found by several threads.
constexpr int64_t kChunk = 1 << 16;

// Runs whose scales are rounded together.
constexpr size_t kTogether = 64;

// True if the stored scale stands for the fitted one: types without infinity saturate.
bool is_in_range(float fitted, float stored, Dtype type) {
  if (dtype_bits(type) > 8) return std::isfinite(stored);
  return std::fabs(fitted) <= largest_finite(type);
}

template <typename Bits>
void store_16(std::span<float> values, Bits (*narrow)(float), float (*widen)(Bits),
              std::span<std::byte> place) {
  for (size_t i = 0; i < values.size(); ++i) {
    const Bits bits = narrow(values[i]);
    std::memcpy(place.data() + i * sizeof bits, &bits, sizeof bits);
    values[i] = widen(bits);
  }
}

// Stores `values` as `type` in `place` and makes them what reads back. (from_float is for long
// arrays: it may start threads.)
void store(std::span<float> values, Dtype type, std::span<std::byte> place) {
  if (type == Dtype::kF16) {
    store_16(values, float_to_f16, f16_to_float, place);
  } else if (type == Dtype::kBF16) {
    store_16(values, float_to_bf16, bf16_to_float, place);
  } else if (type == Dtype::kF32) {
    std::memcpy(place.data(), values.data(), values.size_bytes());
  } else {
    from_float(values, type, place);
    to_float({type, {std::ssize(values)}, place, Device::kCpu}, values);
  }
}

// At most kTogether runs.
FitCount fit_together(const Fit& fit, const float* weights, std::span<const Run> runs,
                      const Extremes* extremes, FittedBlock* blocks) {
  const Grid& grid = fit.scheme.grid;
  const Dtype type = fit.scheme.scale->type;
  const auto highest = static_cast<float>((1 << grid.bits) - 1);
  const size_t width = static_cast<size_t>(dtype_bits(type)) / 8;
  const auto first = static_cast<size_t>(runs[0].block);
  const std::span<std::byte> place = fit.scales.subspan(first * width, runs.size() * width);
  std::array<float, kTogether> scales;
  for (size_t r = 0; r < runs.size(); ++r) {
    const std::span<const float> run(weights + runs[r].first, weights + runs[r].end);
    const BlockParameters found = fit.rule.fit(run, extremes[r], grid, fit.scheme.symmetric());
    scales[r] = blocks[r].fitted = found.scale;
    blocks[r].minimum = found.minimum;
    blocks[r].is_zero = extremes[r].smallest == 0.f && extremes[r].largest == 0.f;
  }
  store(std::span(scales).first(runs.size()), type, place);
  FitCount count;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (scales[r] == 0.f && !blocks[r].is_zero) {
      scales[r] = std::copysign(smallest_positive(type), blocks[r].fitted);
      store({&scales[r], 1}, type, place.subspan(r * width, width));
      ++count.raised;
    }
    if (!extremes[r].finite || !is_in_range(blocks[r].fitted, scales[r], type)) {
      count.failed = std::min(count.failed, runs[r].block);
      continue;
    }
    blocks[r].scale = scales[r];
    if (fit.zeros.empty()) continue;
    blocks[r].zero = std::clamp(fit.rule.zero(blocks[r].minimum, scales[r]), 0.f, highest);
    fit.zeros[first + r] = static_cast<uint8_t>(blocks[r].zero);
  }
  return count;
}

// Of one run, by several threads when there is enough work; the result does not depend on how it
// is cut.
Extremes extremes_of(std::span<const float> weights) {
  std::vector<Run> runs;
  for (int64_t first = 0; first < std::ssize(weights); first += kChunk) {
    runs.push_back({first, std::min(first + kChunk, std::ssize(weights)), 0});
  }
  std::vector<Extremes> found(runs.size());
  const RoundPath& path = *round_paths().back();
#pragma omp parallel for schedule(static) if (runs.size() > 1)
  for (size_t r = 0; r < runs.size(); ++r) {
    path.extremes(weights.data(), {&runs[r], 1}, &found[r]);
  }
  Extremes all = found.empty() ? Extremes{} : found[0];
  for (const Extremes& part : found) {
    all.smallest = std::min(all.smallest, part.smallest);
    all.largest = std::max(all.largest, part.largest);
    all.finite = all.finite && part.finite;
  }
  return all;
}

// Rows [first, end) that a block has weights in; not for flattened blockings.
std::pair<int64_t, int64_t> rows_of(const Blocking& blocking, int64_t N, int64_t K, int64_t block) {
  if (blocking.rows == kAll) return {0, N};
  const int64_t first = block / group_count(blocking, K) * blocking.rows;
  return {first, std::min(N, first + blocking.rows)};
}

// The weights of a block, copied together unless they lie together already.
std::span<const float> gather_block(ConstMatrixRef W, const Blocking& blocking,
                                    const ColumnOrder& order, int64_t block,
                                    std::vector<float>& buffer) {
  const int64_t size = W.size();
  const int64_t first = blocking.flattened ? block * blocking.columns : 0;
  const int64_t end = blocking.flattened ? std::min(size, first + blocking.columns) : size;
  const bool everything = blocking.rows == kAll && blocking.columns == kAll;
  if (W.outerStride() == W.cols() && (blocking.flattened || everything)) {
    return {W.data() + first, static_cast<size_t>(end - first)};
  }
  buffer.clear();
  if (blocking.flattened) {
    for (int64_t i = first; i < end; ++i) buffer.push_back(W(i / W.cols(), i % W.cols()));
    return buffer;
  }
  const auto [first_row, end_row] = rows_of(blocking, W.rows(), W.cols(), block);
  std::vector<Run> runs;
  list_runs(blocking, order, W.cols(), first_row, runs);
  const Run& run = runs[static_cast<size_t>(block - runs[0].block)];
  for (int64_t n = first_row; n < end_row; ++n) {
    for (int64_t i = run.first; i < run.end; ++i) {
      buffer.push_back(W(n, order.column.empty() ? i : order.column[static_cast<size_t>(i)]));
    }
  }
  return buffer;
}

}  // namespace

void check_fittable(ConstMatrixRef W, const Scheme& scheme, const RangeRule& rule,
                    const std::string& where) {
  const bool has_second = scheme.scale && scheme.scale->second;
  const bool has_scale = has_second || (scheme.scale && is_float(scheme.scale->type));
  if (scheme.grid.kind != Grid::Kind::kInteger || !has_scale || scheme.minimum) {
    throw Error(where,
                "range rules are for integer codes with one scale, not for " + describe(scheme));
  }
  if (has_second) {
    const std::string reason = second_level_refusal(scheme);
    if (!reason.empty()) throw Error(where, describe(scheme) + ": " + reason);
    if (&rule != &range_rules().front()) {
      throw Error(where, "range rule '" + std::string(rule.name) + "' with scales of scales",
                  "choose the rule 'nibble', whose scales are positive");
    }
  }
  if (scheme.zero) {
    const Parameter& zero = *scheme.zero;
    if (zero.type != Dtype::kU8 || zero.second || !zero.table.empty() || scheme.grid.lowest != 0 ||
        zero.bits < scheme.grid.bits) {
      throw Error(where, "range rules give zero points 0 to 2^bits - 1 in U8");
    }
    if (rule.zero == nullptr) {
      throw Error(where, "range rule '" + std::string(rule.name) + "' is only symmetric",
                  "choose a symmetric scheme or another rule");
    }
  }
  if (W.rows() < 1 || W.cols() < 1) throw Error(where, "no weights");
}

FitCount fit_runs(const Fit& fit, const float* weights, std::span<const Run> runs,
                  const Extremes* extremes, FittedBlock* blocks) {
  FitCount count;
  for (size_t first = 0; first < runs.size(); first += kTogether) {
    const auto part = runs.subspan(first, std::min(kTogether, runs.size() - first));
    count.add(fit_together(fit, weights, part, extremes + first, blocks + first));
  }
  return count;
}

FitCount fit_blocks(const Fit& fit, ConstMatrixRef W, const ColumnOrder& order,
                    std::vector<FittedBlock>& blocks) {
  const Blocking& blocking = fit.scheme.blocking;
  blocks.assign(static_cast<size_t>(block_count(blocking, W.rows(), W.cols())), {});
  std::vector<float> buffer;
  FitCount count;
  for (size_t block = 0; block < blocks.size(); ++block) {
    const auto at = static_cast<int64_t>(block);
    const auto weights = gather_block(W, blocking, order, at, buffer);
    const Run run = {0, std::ssize(weights), at};
    const Extremes extremes = extremes_of(weights);
    count.add(fit_runs(fit, weights.data(), {&run, 1}, &extremes, &blocks[block]));
  }
  return count;
}

void fail(ConstMatrixRef W, const Scheme& scheme, int64_t block, const std::string& where) {
  check_finite(W, where);
  throw Error(where,
              "the scale of " + block_place(scheme.blocking, W.rows(), W.cols(), block) +
                  " is infinite in " + std::string(dtype_name(scheme.scale->type)),
              "store scales as BF16 or F32");
}

}  // namespace nibble
