#include "kernels/attention.h"

#include <omp.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/row_paths.h"
#include "kernels/workspace.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

// Multiplications of queries and keys that are worth waking the other threads for.
constexpr int64_t kParallelProducts = int64_t{1} << 20;
constexpr int64_t kBlockRows = 128;  // queries times heads of a group
constexpr int64_t kBlockKeys = 128;  // of one step of the running softmax
// Up to so many queries, arranging keys and values would cost more than it saves.
constexpr int64_t kFewQueries = 4;
static_assert(kBlockKeys % kPanelWidth == 0);

int64_t panels(int64_t n) { return (n + kPanelWidth - 1) / kPanelWidth; }

// The first position that the query at `position` sees.
int64_t oldest_seen(const AttentionShape& shape, int64_t position) {
  return shape.sliding_window == 0 ? 0 : std::max<int64_t>(0, position + 1 - shape.sliding_window);
}

float score_scale(const AttentionShape& shape) {
  return 1.f / std::sqrt(static_cast<float>(shape.head_size));
}

// Keys and values of one head of one sequence, arranged for multiply_tile.
struct PackedHead {
  float* keys;    // [keys/32, head_size, 32]
  float* values;  // [head_size/32, keys, 32]
};

// k, v [keys, head_size].
void pack_head(ConstMatrixRef k, ConstMatrixRef v, const PackedHead& head) {
  const int64_t size = k.cols();
  for (int64_t key = 0; key < k.rows(); ++key) {
    float* column = head.keys + key / kPanelWidth * size * kPanelWidth + key % kPanelWidth;
    for (int64_t i = 0; i < size; ++i) column[i * kPanelWidth] = k(key, i);
    for (int64_t i = 0; i < size; i += kPanelWidth) {
      const float* row = v.row(key).data() + i;
      const int64_t count = std::min(kPanelWidth, size - i);
      float* out = head.values + i * k.rows() + key * kPanelWidth;
      std::copy(row, row + count, out);
      std::fill(out + count, out + kPanelWidth, 0.f);
    }
  }
}

// What one thread needs for a block of queries. Rows are (head of the group, query).
struct BlockMemory {
  Workspace::Rows q;                  // [rows, head_size], scaled
  Workspace::Rows scores;             // [rows, kBlockKeys], then exp(score - largest)
  Workspace::Rows out;                // [rows, head_size rounded up to 32], before division
  std::vector<float> largest, total;  // [rows] of the softmax so far
};

struct QueryBlock {
  int64_t first_position;  // of the first query
  int64_t queries;
  int64_t rows;  // queries times heads of the group
  int64_t keys;  // of the sequence
};

// Scores of keys [first, first + keys) become exponentials, those that a query does not see zero;
// earlier sums are rescaled to the new largest score.
void softmax_block(const AttentionShape& shape, const QueryBlock& block, int64_t first,
                   int64_t keys, BlockMemory& work) {
  const RowPath& path = row_path();
  for (int64_t row = 0; row < block.rows; ++row) {
    const int64_t position = block.first_position + row % block.queries;
    const int64_t begin = std::clamp<int64_t>(oldest_seen(shape, position) - first, 0, keys);
    const int64_t end = std::clamp<int64_t>(position + 1 - first, begin, keys);
    float* scores = work.scores.row(row).data();
    std::fill(scores, scores + begin, 0.f);
    std::fill(scores + end, scores + keys, 0.f);
    if (begin == end) continue;
    const float largest = std::max(work.largest[row], path.max(scores + begin, end - begin));
    const float sum = path.exp(scores + begin, end - begin, largest);
    if (largest > work.largest[row]) {
      const float factor = std::exp(work.largest[row] - largest);  // 0 at first
      work.total[row] *= factor;
      float* out = work.out.row(row).data();
      path.scale(out, work.out.cols(), factor, out);
      work.largest[row] = largest;
    }
    work.total[row] += sum;
  }
}

// q, out [queries, group * head_size].
void attend_block(const AttentionShape& shape, const QueryBlock& block, ConstMatrixRef q,
                  const PackedHead& head, BlockMemory& work, MatrixRef out) {
  const RowPath& path = row_path();
  const int64_t size = shape.head_size;
  for (int64_t row = 0; row < block.rows; ++row) {
    path.scale(q.row(row % block.queries).data() + row / block.queries * size, size,
               score_scale(shape), work.q.row(row).data());
  }
  work.out.setZero();
  std::fill(work.largest.begin(), work.largest.end(), -std::numeric_limits<float>::infinity());
  std::fill(work.total.begin(), work.total.end(), 0.f);

  const int64_t end = block.first_position + block.queries;
  const int64_t oldest = oldest_seen(shape, block.first_position);
  for (int64_t first = oldest / kBlockKeys * kBlockKeys; first < end; first += kBlockKeys) {
    const int64_t keys = std::min(kBlockKeys, end - first);
    for (int64_t key = 0; key < keys; key += kPanelWidth) {
      const float* panel = head.keys + (first + key) * size;
      path.multiply_tile({work.q.data(), work.q.outerStride(), panel, work.scores.data() + key,
                          work.scores.outerStride(), block.rows, size, false, panel});
    }
    softmax_block(shape, block, first, keys, work);
    for (int64_t i = 0; i < size; i += kPanelWidth) {
      const float* panel = head.values + i * block.keys + first * kPanelWidth;
      path.multiply_tile({work.scores.data(), work.scores.outerStride(), panel, work.out.data() + i,
                          work.out.outerStride(), block.rows, keys, true, panel});
    }
  }
  for (int64_t row = 0; row < block.rows; ++row) {
    path.scale(work.out.row(row).data(), size, 1.f / work.total[row],
               out.row(row % block.queries).data() + row / block.queries * size);
  }
}

// One head, one query at `position`: q, out [head_size].
void attend_one(const AttentionShape& shape, int64_t position, const float* q, ConstMatrixRef k,
                ConstMatrixRef v, float* out) {
  const RowPath& path = row_path();
  const int64_t size = shape.head_size;
  const int64_t oldest = oldest_seen(shape, position);
  const int64_t keys = position + 1 - oldest;
  std::vector<float> scores(keys);
  for (int64_t key = 0; key < keys; ++key) {
    scores[key] = path.dot(q, k.row(oldest + key).data(), size) * score_scale(shape);
  }
  const float total = path.exp(scores.data(), keys, path.max(scores.data(), keys));
  std::fill(out, out + size, 0.f);
  for (int64_t key = 0; key < keys; ++key) {
    path.add_scaled(v.row(oldest + key).data(), size, scores[key] / total, out);
  }
}

void attend_few(const AttentionShape& shape, ConstMatrixRef q, ConstMatrixRef k, ConstMatrixRef v,
                MatrixRef out) {
  const int64_t size = shape.head_size;
  const int64_t queries = q.rows() / shape.windows;
  const int64_t keys = k.rows() / shape.windows;
  const bool worth_it = q.rows() * keys * shape.heads * size >= kParallelProducts;
#pragma omp parallel for schedule(dynamic) if (worth_it && !omp_in_parallel())
  for (int64_t task = 0; task < q.rows() * shape.heads; ++task) {
    const int64_t row = task / shape.heads;
    const int64_t head = task % shape.heads;
    const int64_t column = head * shape.key_value_heads / shape.heads * size;
    const int64_t first = row / queries * keys;
    attend_one(shape, keys - queries + row % queries, q.row(row).data() + head * size,
               k.block(first, column, keys, size), v.block(first, column, keys, size),
               out.row(row).data() + head * size);
  }
}

}  // namespace

void attention(const AttentionShape& shape, ConstMatrixRef q, ConstMatrixRef k, ConstMatrixRef v,
               Workspace& workspace, MatrixRef out) {
  const int64_t queries = q.rows() / shape.windows;
  const int64_t keys = k.rows() / shape.windows;
  const int64_t size = shape.head_size;
  assert(q.cols() == shape.heads * size && k.cols() == shape.key_value_heads * size);
  assert(keys >= queries && v.rows() == k.rows() && out.rows() == q.rows());
  if (queries <= kFewQueries) return attend_few(shape, q, k, v, out);

  const int64_t group = shape.heads / shape.key_value_heads;
  const int64_t step = std::max<int64_t>(16, kBlockRows / group);  // queries per block
  const int64_t blocks = (queries + step - 1) / step;
  const int64_t heads = shape.windows * shape.key_value_heads;
  workspace.prepare();
  auto packed_keys =
      workspace.take(Workspace::kPackedKeys, heads, panels(keys) * size * kPanelWidth);
  auto packed_values =
      workspace.take(Workspace::kPackedValues, heads, panels(size) * keys * kPanelWidth);
  const auto packed = [&](int64_t head) {
    return PackedHead{packed_keys.row(head).data(), packed_values.row(head).data()};
  };
#pragma omp parallel
  {
#pragma omp for schedule(dynamic)
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t row = head / shape.key_value_heads * keys;
      const int64_t column = head % shape.key_value_heads * size;
      pack_head(k.block(row, column, keys, size), v.block(row, column, keys, size), packed(head));
    }
    BlockMemory work{workspace.take(Workspace::kQueries, group * step, size),
                     workspace.take(Workspace::kScores, group * step, kBlockKeys),
                     workspace.take(Workspace::kOutputs, group * step, panels(size) * kPanelWidth),
                     std::vector<float>(group * step), std::vector<float>(group * step)};
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < heads * blocks; ++task) {
      const int64_t block = blocks - 1 - task / heads;  // the last queries see most: first
      const int64_t head = task % heads;
      const int64_t first = block * step;
      const int64_t count = std::min(step, queries - first);
      const int64_t row = head / shape.key_value_heads * queries + first;
      const int64_t column = head % shape.key_value_heads * group * size;
      attend_block(shape, {keys - queries + first, count, count * group, keys},
                   q.block(row, column, count, group * size), packed(head), work,
                   out.block(row, column, count, group * size));
    }
  }
}

}  // namespace nibble
