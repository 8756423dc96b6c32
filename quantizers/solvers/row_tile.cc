#include "quantizers/solvers/row_tile.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <span>
#include <vector>

#include "quantizers/solvers/gptq_lanes.h"
#include "src/quantized/blocks.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int64_t kTogether = 16;  // rows whose floats share a cache line
constexpr float kSmallestScale = std::numeric_limits<float>::min();

}  // namespace

std::vector<int64_t> blocks_of_lanes(int64_t N, int64_t G, int64_t row, int64_t g, int64_t lanes) {
  std::vector<int64_t> blocks(static_cast<size_t>(lanes));
  for (int64_t r = 0; r < lanes; ++r) {
    blocks[static_cast<size_t>(r)] = std::min(row + r, N - 1) * G + g;
  }
  return blocks;
}

LaneParameters load_parameters(const QuantizedLinear& q) {
  const int64_t G = group_count(q.scheme.blocking, q.K);
  LaneParameters parameters = {
      Matrix::Ones(G, padded_rows(q.N)), Matrix::Zero(G, padded_rows(q.N)), {}};
  if (q.scheme.minimum) parameters.minimum.setZero(G, padded_rows(q.N));
  const FloatParameters values = float_parameters(q);
  const auto lowest = static_cast<float>(q.scheme.grid.lowest);
  for (int64_t n = 0; n < q.N; ++n) {
    const int64_t first_block = block_at(q.scheme.blocking, q.K, n, 0);
    for (int64_t g = 0; g < G; ++g) {
      const auto block = static_cast<size_t>(first_block + g);
      parameters.scale(g, n) = values.scale[block] == 0.f ? kSmallestScale : values.scale[block];
      if (q.scheme.minimum) parameters.minimum(g, n) = values.minimum[block];
      parameters.first(g, n) = lowest - (q.scheme.zero ? values.zero[block] : 0.f);
    }
  }
  return parameters;
}

LaneLevels::LaneLevels(const Grid& grid)
    : is_table_(grid.kind == Grid::Kind::kTable), codes_(1 << grid.bits), table_(grid.table) {
  if (!is_table_) return;
  std::ranges::copy_if(table_, std::back_inserter(levels_),
                       [](float level) { return !std::isnan(level); });
  std::sort(levels_.begin(), levels_.end());
  levels_.erase(std::unique(levels_.begin(), levels_.end()), levels_.end());
  for (size_t i = 0; i + 1 < levels_.size(); ++i) {
    borders_.push_back((levels_[i] + levels_[i + 1]) / 2.f);
  }
  for (const float level : levels_) {
    codes_of_levels_.push_back(
        static_cast<uint8_t>(std::ranges::find(table_, level) - table_.begin()));
  }
}

uint8_t LaneLevels::code(float level, float first) const {
  if (!is_table_) return static_cast<uint8_t>(level - first);
  const auto found = std::ranges::lower_bound(levels_, level);
  return codes_of_levels_[static_cast<size_t>(found - levels_.begin())];
}

void LaneLevels::describe(ColumnBlock& block) const {
  block.last = static_cast<float>(codes_ - 1);
  block.levels = static_cast<int>(levels_.size());
  block.level_values = levels_.data();
  block.borders = borders_.data();
}

void subtract_minimums(const LaneParameters& parameters, int64_t first,
                       std::span<const int32_t> groups, MatrixRef values) {
  if (parameters.minimum.size() == 0) return;
  for (int64_t j = 0; j < values.rows(); ++j) {
    values.row(j) -=
        parameters.minimum.row(groups[static_cast<size_t>(j)]).segment(first, values.cols());
  }
}

std::vector<int32_t> group_of_columns(const QuantizedLinear& q) {
  if (!q.group_of_column.empty()) return q.group_of_column;
  std::vector<int32_t> group(static_cast<size_t>(q.K));
  const int64_t width = q.scheme.blocking.columns == kAll ? q.K : q.scheme.blocking.columns;
  for (size_t k = 0; k < group.size(); ++k) {
    group[k] = static_cast<int32_t>(static_cast<int64_t>(k) / width);
  }
  return group;
}

void turn_rows(ConstMatrixRef W, int64_t first, std::span<const int32_t> columns, MatrixRef out) {
  const int64_t rows = std::min(out.cols(), W.rows() - first);
  if (rows < out.cols()) out.rightCols(out.cols() - rows).setZero();
  for (int64_t r = 0; r < rows; r += kTogether) {
    const int64_t end = std::min(rows, r + kTogether);
    for (int64_t j = 0; j < out.rows(); ++j) {
      const int64_t k = columns[static_cast<size_t>(j)];
      for (int64_t row = r; row < end; ++row) out(j, row) = W(first + row, k);
    }
  }
}

void LaneBlock::resize(int64_t columns) {
  for (Array* array : {&target, &from, &change, &level}) array->resize(columns, kLanes);
  scale_.resize(static_cast<size_t>(columns));
  first_.resize(static_cast<size_t>(columns));
}

void LaneBlock::set_parameters(int64_t column, const LaneParameters& parameters, int64_t group,
                               int64_t row) {
  scale_[static_cast<size_t>(column)] = parameters.scale.row(group).data() + row;
  first_[static_cast<size_t>(column)] = parameters.first.row(group).data() + row;
}

void LaneBlock::round(const float* coupling, int64_t coupling_stride, const LaneLevels& levels) {
  ColumnBlock block = {.columns = target.rows(),
                       .rows_stride = kLanes,
                       .coupling = coupling,
                       .coupling_stride = coupling_stride,
                       .target = target.data(),
                       .from = from.data(),
                       .scale = scale_.data(),
                       .first = first_.data(),
                       .change = change.data(),
                       .level = level.data()};
  levels.describe(block);
  lane_paths().back()->round_columns(block);
}

void LaneBlock::store_codes(std::span<const int32_t> columns, int64_t rows,
                            const LaneLevels& levels, int64_t stride, uint8_t* codes) const {
  for (int64_t r = 0; r < rows; r += kTogether) {
    const int64_t end = std::min(rows, r + kTogether);
    for (size_t k = 0; k < columns.size(); ++k) {
      const float* column = level.data() + static_cast<int64_t>(k) * kLanes;
      for (int64_t row = r; row < end; ++row) {
        codes[row * stride + columns[k]] = levels.code(column[row], first_[k][row]);
      }
    }
  }
}

}  // namespace nibble
