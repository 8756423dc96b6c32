#include "src/quantized/blocks.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "src/quantized/scheme.h"
#include "src/tensor/error.h"

namespace nibble {

int64_t block_at(const Blocking& blocking, int64_t K, int64_t n, int64_t k) {
  if (blocking.flattened) return (n * K + k) / blocking.columns;
  const int64_t row = blocking.rows == kAll ? 0 : n / blocking.rows;
  const int64_t group = blocking.columns == kAll ? 0 : k / blocking.columns;
  return row * group_count(blocking, K) + group;
}

int64_t block_end(const Blocking& blocking, int64_t K, int64_t n, int64_t k) {
  if (blocking.columns == kAll) return K;
  const int64_t place = blocking.flattened ? n * K + k : k;
  return std::min(K, k + blocking.columns - place % blocking.columns);
}

std::string block_place(const Blocking& blocking, int64_t N, int64_t K, int64_t block) {
  if (blocking.flattened) return "block " + std::to_string(block);
  const int64_t groups = group_count(blocking, K);
  const int64_t rows = blocking.rows == kAll ? N : blocking.rows;
  return "row " + std::to_string(block / groups * rows) + ", group " +
         std::to_string(block % groups);
}

void check_column_groups(const std::vector<int32_t>& group_of_column, const Blocking& blocking,
                         int64_t K, const std::string& where) {
  if (group_of_column.empty()) return;
  const std::string place = where + ": column groups";
  if (blocking.flattened) {
    throw Error(place, "blocks of a flattened matrix have no column groups");
  }
  if (static_cast<int64_t>(group_of_column.size()) != K) {
    throw Error(place,
                std::to_string(group_of_column.size()) + " entries, expected " + std::to_string(K));
  }
  const int64_t groups = group_count(blocking, K);
  for (size_t k = 0; k < group_of_column.size(); ++k) {
    const int32_t group = group_of_column[k];
    if (group >= 0 && group < groups) continue;
    throw Error(place, "column " + std::to_string(k) + " is in group " + std::to_string(group) +
                           " of " + std::to_string(groups));
  }
}

ColumnOrder column_order(const std::vector<int32_t>& group_of_column, int64_t groups) {
  ColumnOrder order;
  if (group_of_column.empty()) return order;
  order.start.assign(static_cast<size_t>(groups) + 1, 0);
  for (const int32_t group : group_of_column) ++order.start[static_cast<size_t>(group) + 1];
  for (size_t g = 1; g < order.start.size(); ++g) order.start[g] += order.start[g - 1];
  order.column.resize(group_of_column.size());
  std::vector<int64_t> next = order.start;
  for (size_t k = 0; k < group_of_column.size(); ++k) {
    const auto group = static_cast<size_t>(group_of_column[k]);
    order.column[static_cast<size_t>(next[group]++)] = static_cast<int32_t>(k);
  }
  return order;
}

void list_runs(const Blocking& blocking, const ColumnOrder& order, int64_t K, int64_t n,
               std::vector<Run>& runs) {
  int64_t block = block_at(blocking, K, n, 0);
  if (!blocking.flattened && !runs.empty()) {  // only the blocks differ between rows
    for (Run& run : runs) run.block = block++;
    return;
  }
  runs.clear();
  for (size_t g = 1; g < order.start.size(); ++g) {
    runs.push_back({order.start[g - 1], order.start[g], block++});
  }
  if (!order.start.empty()) return;
  for (int64_t k = 0; k < K;) {
    const int64_t end = block_end(blocking, K, n, k);
    runs.push_back({k, end, block++});
    k = end;
  }
}

}  // namespace nibble
