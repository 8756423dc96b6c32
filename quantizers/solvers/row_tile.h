// Rows of a weight matrix turned into columns of rows, for the vectors of gptq_lanes.h. Private to
// quantizers/solvers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quantizers/solvers/gptq_lanes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

// Rows that one thread solves together: a multiple of kLanes. More rows make faster products, fewer
// leave work for every thread.
inline int64_t tile_rows(int64_t N) {
  if (N >= 1024) return 4 * kLanes;
  return N >= 256 ? 2 * kLanes : kLanes;
}

inline int64_t padded_rows(int64_t N) { return (N + kLanes - 1) / kLanes * kLanes; }

// Blocks of group g of rows [row, row + lanes) of N, with G groups; beyond the last, the last
// row's.
std::vector<int64_t> blocks_of_lanes(int64_t N, int64_t G, int64_t row, int64_t g,
                                     int64_t lanes = kLanes);

// Parameters of every group, rows in the lanes; 1 and 0 for rows beyond the last.
struct LaneParameters {
  Matrix scale;    // [G, padded N]; what is 0 is the smallest normal number, whose quotients exist
  Matrix first;    // [G, padded N] lowest level minus zero point
  Matrix minimum;  // [G, padded N]; empty without minimums
};

// Not of flattened blocking. Rows that share a block have its parameters each.
LaneParameters load_parameters(const QuantizedLinear& q);

// What codes stand for before parameters: code + first, or the levels of a table that are numbers.
class LaneLevels {
 public:
  explicit LaneLevels(const Grid& grid);

  float level(uint8_t code, float first) const {
    return is_table_ ? table_[code] : static_cast<float>(code) + first;
  }
  uint8_t code(float level, float first) const;
  // Levels, borders and the number of codes for round_columns.
  void describe(ColumnBlock& block) const;

 private:
  bool is_table_;
  int codes_;
  std::vector<float> table_;              // by code
  std::vector<float> levels_;             // of the table, rising
  std::vector<uint8_t> codes_of_levels_;  // the first of each
  std::vector<float> borders_;
};

// values [columns][rows of W from `first` on] less the minimums of groups[j], j the column.
void subtract_minimums(const LaneParameters& parameters, int64_t first,
                       std::span<const int32_t> groups, MatrixRef values);

// Group of every column, [K]; not of flattened blocking.
std::vector<int32_t> group_of_columns(const QuantizedLinear& q);

// out [columns][rows]: out(j, r) = W(first + r, columns[j]), 0 beyond the last row of W.
void turn_rows(ConstMatrixRef W, int64_t first, std::span<const int32_t> columns, MatrixRef out);

// What round_columns works on, close together in the cache: kLanes rows of at most kBlockColumns
// columns.
class LaneBlock {
 public:
  using Array = Eigen::Matrix<float, Eigen::Dynamic, kLanes, Eigen::RowMajor>;  // [columns][kLanes]

  // scale, first: the parameters of kLanes rows for every column.
  void resize(int64_t columns);
  void set_parameters(int64_t column, const LaneParameters& parameters, int64_t group, int64_t row);
  // level and change from target and from; coupling [columns, columns].
  void round(const float* coupling, int64_t coupling_stride, const LaneLevels& levels);
  // codes[r * stride + columns[k]] for the first `rows` rows.
  void store_codes(std::span<const int32_t> columns, int64_t rows, const LaneLevels& levels,
                   int64_t stride, uint8_t* codes) const;

  Array target;
  Array from;
  Array change;
  Array level;

 private:
  std::vector<const float*> scale_;  // [columns]
  std::vector<const float*> first_;  // [columns]
};

}  // namespace nibble
