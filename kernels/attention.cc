#include "kernels/attention.h"

#include <omp.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/matmul.h"
#include "kernels/row_paths.h"

namespace nibble {
namespace {

constexpr int64_t kBlockRows = 128;  // queries times heads of a group
constexpr int64_t kBlockKeys = 128;

// Queries per block, so that with the heads of the group they fill a block.
int64_t block_queries(int64_t group) { return std::max<int64_t>(16, kBlockRows / group); }

// What one thread needs for a block of queries. Rows are (head of the group, query).
struct Workspace {
  Matrix q;                           // [rows, head_size], scaled
  Matrix scores;                      // [rows, kBlockKeys], then exp(score - largest)
  Matrix out;                         // [rows, head_size], before division
  std::vector<float> largest, total;  // [rows] of the softmax so far
};

struct QueryBlock {
  int64_t first_position;  // of the first query
  int64_t queries;
  int64_t group;  // heads
  int64_t sliding_window;
  int64_t rows() const { return group * queries; }
};

// Scores of keys [first, first + keys) become exponentials, those that a query does not see zero;
// earlier sums are rescaled to the new largest score.
void softmax_block(const RowPath& path, const QueryBlock& block, int64_t first, int64_t keys,
                   Workspace& work) {
  for (int64_t row = 0; row < block.rows(); ++row) {
    const int64_t position = block.first_position + row % block.queries;
    const int64_t oldest =
        block.sliding_window == 0 ? 0 : std::max<int64_t>(0, position + 1 - block.sliding_window);
    const int64_t begin = std::clamp<int64_t>(oldest - first, 0, keys);
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

// k, v [keys, head_size] of one sequence and head; q, out [queries, group * head_size].
void attend(const RowPath& path, const QueryBlock& block, ConstMatrixRef q, ConstMatrixRef k,
            ConstMatrixRef v, Workspace& work, MatrixRef out) {
  const int64_t head_size = k.cols();
  const float scale = 1.f / std::sqrt(static_cast<float>(head_size));
  for (int64_t row = 0; row < block.rows(); ++row) {
    const int64_t head = row / block.queries;
    path.scale(q.row(row % block.queries).data() + head * head_size, head_size, scale,
               work.q.row(row).data());
  }
  work.out.topRows(block.rows()).setZero();
  std::fill(work.largest.begin(), work.largest.end(), -std::numeric_limits<float>::infinity());
  std::fill(work.total.begin(), work.total.end(), 0.f);

  const int64_t end = block.first_position + block.queries;
  const int64_t oldest =
      block.sliding_window == 0
          ? 0
          : std::max<int64_t>(0, block.first_position + 1 - block.sliding_window);
  for (int64_t first = oldest / kBlockKeys * kBlockKeys; first < end; first += kBlockKeys) {
    const int64_t keys = std::min(kBlockKeys, end - first);
    const auto scores = work.scores.topLeftCorner(block.rows(), keys);
    matmul_tile(work.q.topRows(block.rows()), k.middleRows(first, keys),
                work.scores.topLeftCorner(block.rows(), keys), Accumulate::kNo);
    softmax_block(path, block, first, keys, work);
    matmul_tile_plain(scores, v.middleRows(first, keys), work.out.topRows(block.rows()),
                      Accumulate::kYes);
  }
  for (int64_t row = 0; row < block.rows(); ++row) {
    const int64_t head = row / block.queries;
    path.scale(work.out.row(row).data(), head_size, 1.f / work.total[row],
               out.row(row % block.queries).data() + head * head_size);
  }
}

}  // namespace

void attention(const AttentionShape& shape, int64_t windows, ConstMatrixRef q, ConstMatrixRef k,
               ConstMatrixRef v, MatrixRef out) {
  const int64_t queries = q.rows() / windows;
  const int64_t keys = k.rows() / windows;
  const int64_t group = shape.heads / shape.key_value_heads;
  const int64_t size = shape.head_size;
  assert(q.cols() == shape.heads * size && k.cols() == shape.key_value_heads * size);
  assert(keys >= queries && v.rows() == k.rows() && out.rows() == q.rows());
  const int64_t step = block_queries(group);
  const int64_t blocks = (queries + step - 1) / step;
  const RowPath& path = row_path();
#pragma omp parallel if (!omp_in_parallel())
  {
    const int64_t rows = group * step;
    Workspace work{Matrix(rows, size), Matrix(rows, kBlockKeys), Matrix(rows, size),
                   std::vector<float>(rows), std::vector<float>(rows)};
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < windows * shape.key_value_heads * blocks; ++task) {
      // The longest blocks (the last queries) first.
      const int64_t block = blocks - 1 - task / (windows * shape.key_value_heads);
      const int64_t window = task / shape.key_value_heads % windows;
      const int64_t head = task % shape.key_value_heads;
      const int64_t first = block * step;
      const int64_t count = std::min(step, queries - first);
      const QueryBlock query_block{keys - queries + first, count, group, shape.sliding_window};
      const int64_t row = window * queries + first;
      attend(path, query_block, q.block(row, head * group * size, count, group * size),
             k.block(window * keys, head * size, keys, size),
             v.block(window * keys, head * size, keys, size), work,
             out.block(row, head * group * size, count, group * size));
    }
  }
}

}  // namespace nibble
