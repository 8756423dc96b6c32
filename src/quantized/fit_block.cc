#include "src/quantized/fit_block.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/round_paths.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

// Weights of a block whose extremes are found by several threads.
constexpr int64_t kChunk = 1 << 16;

// Stores `value` as `type` at `place`; returns what reads back.
float store(float value, Dtype type, std::byte* place) {
  if (type == Dtype::kF16) {
    const uint16_t bits = float_to_f16(value);
    std::memcpy(place, &bits, sizeof bits);
    return f16_to_float(bits);
  }
  from_float({&value, 1}, type, {place, static_cast<size_t>(dtype_bits(type)) / 8});
  return round_to(value, type);
}

// True if the stored scale stands for the fitted one: types without infinity saturate.
bool is_in_range(float fitted, float stored, Dtype type) {
  if (dtype_bits(type) > 8) return std::isfinite(stored);
  return std::fabs(fitted) <= largest_finite(type);
}

Extremes joined(const Extremes& a, const Extremes& b) {
  return {std::min(a.smallest, b.smallest), std::max(a.largest, b.largest), a.finite && b.finite};
}

// By several threads when there is enough work; the result does not depend on how it is cut.
Extremes extremes_of(std::span<const float> weights) {
  const RoundPath& path = *round_paths().back();
  const auto size = static_cast<int64_t>(weights.size());
  const int64_t chunks = (size + kChunk - 1) / kChunk;
  if (chunks < 2) return path.extremes(weights);
  std::vector<Extremes> found(static_cast<size_t>(chunks));
#pragma omp parallel for schedule(static)
  for (int64_t c = 0; c < chunks; ++c) {
    const int64_t length = std::min(kChunk, size - c * kChunk);
    found[static_cast<size_t>(c)] = path.extremes(
        weights.subspan(static_cast<size_t>(c * kChunk), static_cast<size_t>(length)));
  }
  Extremes all = found[0];
  for (const Extremes& part : found) all = joined(all, part);
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
  for (int64_t n = first_row; n < end_row; ++n) {
    for_each_run(blocking, order, W.cols(), n, [&](int64_t from, int64_t to, int64_t at) {
      for (int64_t i = from; at == block && i < to; ++i) {
        buffer.push_back(W(n, order.column.empty() ? i : order.column[static_cast<size_t>(i)]));
      }
    });
  }
  return buffer;
}

}  // namespace

void check_fittable(ConstMatrixRef W, const Scheme& scheme, const RangeRule& rule,
                    const std::string& where) {
  const bool plain_scale = scheme.scale && is_float(scheme.scale->type) && !scheme.scale->second;
  if (scheme.grid.kind != Grid::Kind::kInteger || !plain_scale || scheme.minimum) {
    throw Error(where, "range rules are for integer codes with one stored float scale, not for " +
                           describe(scheme));
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

FitResult fit_block(const Fit& fit, std::span<const float> weights, const Extremes& extremes,
                    int64_t block) {
  const Scheme& scheme = fit.scheme;
  FitResult result;
  result.failed = !extremes.finite;
  if (result.failed) return result;
  const BlockParameters found = fit.rule.fit(weights, extremes, scheme.grid, scheme.symmetric());
  const Dtype type = scheme.scale->type;
  const auto at = static_cast<size_t>(block);
  std::byte* place = fit.scales.data() + at * static_cast<size_t>(dtype_bits(type)) / 8;
  result.block.fitted = found.scale;
  result.block.scale = store(found.scale, type, place);
  const bool has_weight = extremes.smallest != 0.f || extremes.largest != 0.f;
  if (result.block.scale == 0.f && has_weight) {
    result.raised = true;
    result.block.scale = store(std::copysign(smallest_positive(type), found.scale), type, place);
  }
  result.failed = !is_in_range(found.scale, result.block.scale, type);
  if (scheme.zero && !result.failed) {
    const float zero = fit.rule.zero(found.minimum, result.block.scale);
    const auto highest = static_cast<float>((1 << scheme.grid.bits) - 1);
    result.block.zero = std::clamp(zero, 0.f, highest);
    fit.zeros[at] = static_cast<uint8_t>(result.block.zero);
  }
  return result;
}

std::vector<FittedBlock> fit_blocks(const Fit& fit, ConstMatrixRef W, const ColumnOrder& order,
                                    const std::string& where, int64_t& raised) {
  const Scheme& scheme = fit.scheme;
  std::vector<FittedBlock> blocks(
      static_cast<size_t>(block_count(scheme.blocking, W.rows(), W.cols())));
  std::vector<float> buffer;
  for (size_t block = 0; block < blocks.size(); ++block) {
    const auto at = static_cast<int64_t>(block);
    const auto weights = gather_block(W, scheme.blocking, order, at, buffer);
    const FitResult result = fit_block(fit, weights, extremes_of(weights), at);
    if (result.failed) fail(W, scheme, at, where);
    raised += result.raised ? 1 : 0;
    blocks[block] = result.block;
  }
  return blocks;
}

void fail(ConstMatrixRef W, const Scheme& scheme, int64_t block, const std::string& where) {
  for (int64_t n = 0; n < W.rows(); ++n) {
    for (int64_t k = 0; k < W.cols(); ++k) {
      if (std::isfinite(W(n, k))) continue;
      throw Error(where,
                  std::string(std::isnan(W(n, k)) ? "NaN" : "infinity") + " at row " +
                      std::to_string(n) + ", column " + std::to_string(k),
                  "is the checkpoint damaged?");
    }
  }
  throw Error(where,
              "the scale of " + block_place(scheme.blocking, W.rows(), W.cols(), block) +
                  " is infinite in " + std::string(dtype_name(scheme.scale->type)),
              "store scales as BF16 or F32");
}

}  // namespace nibble
