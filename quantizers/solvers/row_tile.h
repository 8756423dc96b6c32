// Rows of a weight matrix turned into columns of rows, for the vectors of gptq_lanes.h. Private to
// quantizers/solvers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quantizers/solvers/gptq_lanes.h"
#include "src/quantized/quantized_linear.h"
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
  Matrix scale;  // [G, padded N]
  Matrix first;  // [G, padded N] lowest level minus zero point
};

// Of integer codes with row-wise blocking.
LaneParameters load_parameters(const QuantizedLinear& q);

// Group of every column, [K]; row-wise blocking.
std::vector<int32_t> group_of_columns(const QuantizedLinear& q);

// out [columns][rows]: out(j, r) = W(first + r, columns[j]), 0 beyond the last row of W.
void turn_rows(ConstMatrixRef W, int64_t first, std::span<const int32_t> columns, MatrixRef out);

}  // namespace nibble
