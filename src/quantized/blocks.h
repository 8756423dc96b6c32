// Where the blocks of a matrix lie, walked row by row. Private to src/quantized.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/quantized/scheme.h"

namespace nibble {

// Below this a second thread costs more than it saves (about 20 us of work).
inline constexpr int64_t kParallelWeights = 1 << 16;

// Block of weight (n, k) when columns are in their own order.
int64_t block_at(const Blocking& blocking, int64_t K, int64_t n, int64_t k);
// First column after k that may be in another block than column k of row n.
int64_t block_end(const Blocking& blocking, int64_t K, int64_t n, int64_t k);
// "row 3, group 2" of a block of an N x K matrix.
std::string block_place(const Blocking& blocking, int64_t N, int64_t K, int64_t block);

// Throws Error(where, ...) unless group_of_column is empty or [K] groups of the blocking.
void check_column_groups(const std::vector<int32_t>& group_of_column, const Blocking& blocking,
                         int64_t K, const std::string& where);

// Columns in an order that makes those of a group neighbours (stable inside a group).
struct ColumnOrder {
  std::vector<int32_t> column;  // [K]; empty: as they are
  std::vector<int64_t> start;   // [G + 1] first place of each group in that order; empty likewise
};
// group_of_column: [K] entries below `groups`, or empty.
ColumnOrder column_order(const std::vector<int32_t>& group_of_column, int64_t groups);

// Places [first, end) of a row, in such an order, that share their parameters.
struct Run {
  int64_t first;
  int64_t end;
  int64_t block;
};
// Makes `runs`, empty or those of another row, the runs of row n; a group without columns is an
// empty run.
void list_runs(const Blocking& blocking, const ColumnOrder& order, int64_t K, int64_t n,
               std::vector<Run>& runs);

}  // namespace nibble
