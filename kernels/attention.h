// Causal attention of grouped queries, exact, with a running softmax over blocks of keys: the T x T
// scores are never whole.
//
// Vaswani and others, 2017, arXiv 1706.03762, equation 1; the running softmax: Milakov and
// Gimelshein, 2018, arXiv 1805.02867; over blocks: Dao and others, 2022, arXiv 2205.14135.
#pragma once

#include <cstdint>

#include "kernels/workspace.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct AttentionShape {
  int64_t heads = 1;
  int64_t key_value_heads =
      1;  // divides heads; query head h reads key-value head h / (their ratio)
  int64_t head_size = 0;
  int64_t sliding_window = 0;  // a query sees so many last positions, its own included; 0: all
  int64_t windows = 1;         // sequences
};

// Sequences one after another. In each the queries are the last of the keys' positions:
// query i of a sequence sits at position (keys - queries + i) and sees the positions up to its own.
// q, out [windows * queries, heads * head_size]; k, v [windows * keys, key_value_heads *
// head_size]. Scores are scaled by 1/sqrt(head_size). Parallel over windows, heads and blocks of
// queries; the same bits for any number of threads.
void attention(const AttentionShape& shape, ConstMatrixRef q, ConstMatrixRef k, ConstMatrixRef v,
               Workspace& workspace, MatrixRef out);

}  // namespace nibble
