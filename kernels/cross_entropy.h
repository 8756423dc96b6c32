// Cross-entropy of the output head with the logits never whole: blocks of the vocabulary and a
// running log-sum-exp.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "src/tensor/matrix.h"

namespace nibble {

// Logits of the vocabulary entries [first, first + out.cols()) for some rows x [rows, K] -> out
// [rows, cols]; first is a multiple of 512. Called inside a parallel region.
using LogitsBlock = std::function<void(const Matrix& x, int64_t first, MatrixRef out)>;

// -log p(target) of every row in nats; a target < 0 is skipped and its result is 0. rows(indexes)
// gives the inputs of the head [indexes.size(), K] for those rows. Parallel over blocks of rows;
// the same bits for any number of threads.
std::vector<double> cross_entropy(int64_t vocabulary, std::span<const int32_t> targets,
                                  const std::function<Matrix(std::span<const int64_t>)>& rows,
                                  const LogitsBlock& logits);

}  // namespace nibble
