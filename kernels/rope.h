// Rotary position embedding (Su and others, 2021, arXiv 2104.09864) in the arrangement of Hugging
// Face checkpoints: the pair of column i of a head is column i + head_size/2.
#pragma once

#include <cstdint>
#include <span>

#include "src/tensor/matrix.h"

namespace nibble {

// Rows are positions.
struct RopeTable {
  Matrix cosine;  // [positions, head_size / 2]
  Matrix sine;
};

// Angles are computed in double. frequencies [head_size / 2] in radians per token.
RopeTable rope_table(std::span<const float> frequencies, int64_t first_position, int64_t positions);

// In place: row t of x [T, heads * head_size] is rotated by row first_row + t of the table.
void rope(const RopeTable& table, int64_t first_row, MatrixRef x);

}  // namespace nibble
