// Where the blocks of a matrix lie, walked row by row. Private to src/quantized.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "src/quantized/scheme.h"

namespace nibble {

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

// visit(first, end, block): runs of row n, places [first, end) of the order, one block each; a
// group without columns is an empty run.
template <typename Visit>
void for_each_run(const Blocking& blocking, const ColumnOrder& order, int64_t K, int64_t n,
                  const Visit& visit) {
  const int64_t groups = static_cast<int64_t>(order.start.size()) - 1;
  if (groups >= 0) {
    const int64_t first_block = block_at(blocking, K, n, 0);
    for (int64_t g = 0; g < groups; ++g) {
      const auto at = static_cast<size_t>(g);
      visit(order.start[at], order.start[at + 1], first_block + g);
    }
    return;
  }
  int64_t block = block_at(blocking, K, n, 0);
  for (int64_t k = 0; k < K; ++block) {
    const int64_t end = block_end(blocking, K, n, k);
    visit(k, end, block);
    k = end;
  }
}

}  // namespace nibble
