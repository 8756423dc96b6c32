// The forward pass of a block. Tokens go through it in tiles of rows, each on one thread, so that a
// tile's activations stay in that core's cache from norm to residual; attention, which crosses
// rows, runs between. Few tokens are one tile, and then each step uses all threads by itself.
#include <algorithm>
#include <cassert>
#include <cstdint>
#include <functional>
#include <string>

#include "kernels/attention.h"
#include "kernels/rope.h"
#include "kernels/workspace.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/model/layers.h"
#include "src/model/model.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int64_t kTileTokens = 128;
// Tokens whose queries, keys and values are in memory together.
constexpr int64_t kGroupTokens = 4096;

// Columns of the queries, keys and values side by side.
struct Projections {
  explicit Projections(const Config& config)
      : queries(config.heads * config.head_size), keys(config.key_value_heads * config.head_size) {}
  int64_t queries;
  int64_t keys;  // values have as many
  int64_t columns() const { return queries + 2 * keys; }
  int64_t first(Role role) const {
    return role == Role::kQuery ? 0 : role == Role::kKey ? queries : queries + keys;
  }
};

AttentionShape attention_shape(const Config& config, int64_t windows) {
  return {.heads = config.heads,
          .key_value_heads = config.key_value_heads,
          .head_size = config.head_size,
          .sliding_window = config.sliding_window,
          .windows = windows};
}

RopeTable rope_table_of(const Config& config, int64_t first_position, int64_t positions) {
  if (config.architecture->positions != Positions::kRope) return {};
  return rope_table(config.rope_frequencies(), first_position, positions);
}

// work(first row, rows) for every tile of T rows.
void for_tiles(int64_t T, const std::function<void(int64_t, int64_t)>& work) {
  if (T <= kTileTokens) return work(0, T);
  const int64_t tiles = (T + kTileTokens - 1) / kTileTokens;
#pragma omp parallel for schedule(dynamic)
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = tile * kTileTokens;
    work(first, std::min(kTileTokens, T - first));
  }
}

// One block on some tokens: x [T, hidden_size] of whole windows.
class BlockPass {
 public:
  // table: a row per position, row 0 is that of each window's first token.
  BlockPass(const Config& config, const Block& block, const RopeTable& table, Workspace& workspace)
      : config_(config), block_(block), table_(table), workspace_(workspace), projections_(config) {
    workspace_.prepare();
  }

  // Norm, q, k, v and the rotation: x -> qkv [T, projections.columns()].
  void project(ConstMatrixRef x, int64_t window, MatrixRef qkv) const {
    for_tiles(x.rows(), [&](int64_t first, int64_t rows) {
      auto normed = workspace_.take(Workspace::kNormed, rows, x.cols());
      apply_norm(config_, block_.attention_norm, x.middleRows(first, rows), normed);
      for (const Linear& linear : block_.attention) {
        const int64_t column = projections_.first(linear.roles.front());
        apply_linear(linear, normed, qkv.block(first, column, rows, linear.N));
      }
      auto queries = qkv.block(first, 0, rows, projections_.queries);
      auto keys = qkv.block(first, projections_.queries, rows, projections_.keys);
      apply_norm(config_, block_.query_norm, queries, queries);
      apply_norm(config_, block_.key_norm, keys, keys);
      if (table_.cosine.rows() != 0) rotate(first, window, qkv.middleRows(first, rows));
    });
  }

  // The norm before attention alone.
  void norm_attention(ConstMatrixRef x, MatrixRef normed) const {
    for_tiles(x.rows(), [&](int64_t first, int64_t rows) {
      apply_norm(config_, block_.attention_norm, x.middleRows(first, rows),
                 normed.middleRows(first, rows));
    });
  }

  // x += the output layer of `attended`; the MLP's input after it.
  void add_attention(ConstMatrixRef attended, MatrixRef x, MatrixRef normed) const {
    for_tiles(x.rows(), [&](int64_t first, int64_t rows) {
      auto tile = x.middleRows(first, rows);
      add_linear(block_.attention_output, attended.middleRows(first, rows), workspace_, tile);
      apply_norm(config_, block_.mlp_norm, tile, normed.middleRows(first, rows));
    });
  }

  // The input of the MLP's last layer, from its first's.
  void activate(ConstMatrixRef normed, MatrixRef inputs) const {
    for_tiles(normed.rows(), [&](int64_t first, int64_t rows) {
      inputs.middleRows(first, rows) = mlp_hidden(normed.middleRows(first, rows));
    });
  }

  // x += the output layer of `attended`, then the MLP.
  void finish(ConstMatrixRef attended, MatrixRef x) const {
    for_tiles(x.rows(), [&](int64_t first, int64_t rows) {
      auto tile = x.middleRows(first, rows);
      add_linear(block_.attention_output, attended.middleRows(first, rows), workspace_, tile);
      auto normed = workspace_.take(Workspace::kNormed, rows, x.cols());
      apply_norm(config_, block_.mlp_norm, tile, normed);
      add_mlp(normed, tile);
    });
  }

 private:
  // Queries and keys are side by side: one call turns both. rows of qkv begin at row `first`.
  void rotate(int64_t first, int64_t window, MatrixRef rows) const {
    for (int64_t done = 0; done < rows.rows();) {
      const int64_t position = (first + done) % window;
      const int64_t count = std::min(rows.rows() - done, window - position);
      rope(table_, position, rows.block(done, 0, count, projections_.queries + projections_.keys));
      done += count;
    }
  }

  void add_mlp(ConstMatrixRef normed, MatrixRef x) const {
    add_linear(block_.down, mlp_hidden(normed), workspace_, x);
  }

  // Input of the MLP's last layer [rows, intermediate_size], in the workspace.
  MatrixRef mlp_hidden(ConstMatrixRef normed) const {
    const int64_t n = config_.intermediate_size;
    int64_t outputs = 0;
    for (const Linear& linear : block_.mlp) outputs += linear.N;
    // Gate, if any, and up.
    auto hidden = workspace_.take(Workspace::kHidden, normed.rows(), outputs);
    for (const Linear& linear : block_.mlp) {
      const int64_t column = linear.roles.front() == Role::kGate ? 0 : outputs - linear.N;
      apply_linear(linear, normed, hidden.middleCols(column, linear.N));
    }
    auto up = hidden.rightCols(n);
    apply_activation(config_, hidden.block(0, 0, outputs > n ? hidden.rows() : 0, n), up);
    return up;
  }

  const Config& config_;
  const Block& block_;
  const RopeTable& table_;
  Workspace& workspace_;
  Projections projections_;
};

}  // namespace

void Model::forward(const Block& block, const Batch& batch, Matrix& x) const {
  assert(x.rows() == batch.windows * batch.window);
  const Projections projections(config());
  const RopeTable table = rope_table_of(config(), 0, batch.window);
  const BlockPass pass(config(), block, table, *workspace_);
  const int64_t step = std::max<int64_t>(1, kGroupTokens / batch.window);
  for (int64_t first = 0; first < batch.windows; first += step) {
    const int64_t windows = std::min(step, batch.windows - first);
    const int64_t T = windows * batch.window;
    auto tokens = x.middleRows(first * batch.window, T);
    auto qkv = workspace_->take(Workspace::kProjections, T, projections.columns());
    pass.project(tokens, batch.window, qkv);
    auto attended = workspace_->take(Workspace::kAttended, T, projections.queries);
    attention(attention_shape(config(), windows), qkv.leftCols(projections.queries),
              qkv.middleCols(projections.queries, projections.keys),
              qkv.rightCols(projections.keys), *workspace_, attended);
    pass.finish(attended, tokens);
  }
}

void Model::observe(const Block& block, const Batch& batch, const Matrix& x, InputGroup last,
                    const SeeInputs& see) const {
  assert(x.rows() == batch.windows * batch.window);
  const Projections projections(config());
  const RopeTable table = rope_table_of(config(), 0, batch.window);
  const BlockPass pass(config(), block, table, *workspace_);
  const int64_t step = std::max<int64_t>(1, kGroupTokens / batch.window);
  for (int64_t first = 0; first < batch.windows; first += step) {
    const int64_t windows = std::min(step, batch.windows - first);
    const int64_t first_row = first * batch.window;
    const int64_t T = windows * batch.window;
    Matrix tokens = x.middleRows(first_row, T);
    Matrix normed(T, x.cols());
    pass.norm_attention(tokens, normed);
    see(InputGroup::kAttention, normed, tokens, first_row);
    if (last == InputGroup::kAttention) continue;
    auto qkv = workspace_->take(Workspace::kProjections, T, projections.columns());
    pass.project(tokens, batch.window, qkv);
    auto attended = workspace_->take(Workspace::kAttended, T, projections.queries);
    attention(attention_shape(config(), windows), qkv.leftCols(projections.queries),
              qkv.middleCols(projections.queries, projections.keys),
              qkv.rightCols(projections.keys), *workspace_, attended);
    see(InputGroup::kAttentionOutput, attended, tokens, first_row);
    if (last == InputGroup::kAttentionOutput) continue;
    pass.add_attention(attended, tokens, normed);
    see(InputGroup::kMlp, normed, tokens, first_row);
    if (last == InputGroup::kMlp) continue;
    Matrix inputs(T, config().intermediate_size);
    pass.activate(normed, inputs);
    see(InputGroup::kMlpDown, inputs, tokens, first_row);
  }
}

void Model::forward(const Block& block, KeyValueCache& cache, Matrix& x) const {
  const int64_t T = x.rows();
  if (cache.tokens + T > cache.keys.rows()) {
    throw Error("position " + std::to_string(cache.tokens + T - 1),
                "the cache has room for " + std::to_string(cache.keys.rows()) + " tokens");
  }
  const Projections projections(config());
  const RopeTable table = rope_table_of(config(), cache.tokens, T);
  const BlockPass pass(config(), block, table, *workspace_);
  auto qkv = workspace_->take(Workspace::kProjections, T, projections.columns());
  pass.project(x, T, qkv);
  cache.keys.middleRows(cache.tokens, T) = qkv.middleCols(projections.queries, projections.keys);
  cache.values.middleRows(cache.tokens, T) = qkv.rightCols(projections.keys);
  cache.tokens += T;
  auto attended = workspace_->take(Workspace::kAttended, T, projections.queries);
  attention(attention_shape(config(), 1), qkv.leftCols(projections.queries),
            cache.keys.topRows(cache.tokens), cache.values.topRows(cache.tokens), *workspace_,
            attended);
  pass.finish(attended, x);
}

}  // namespace nibble
