// The parts of a block, applied to rows of tokens. Each uses all threads, or the calling one inside
// a parallel region, with the same bits for any number of threads.
#pragma once

#include <cstdint>

#include "kernels/workspace.h"
#include "src/model/config.h"
#include "src/model/model.h"
#include "src/tensor/matrix.h"

namespace nibble {

// x [T, n * segments] -> y, which may be x. Nothing is done without weights.
void apply_norm(const Config& config, const NormWeights& norm, ConstMatrixRef x, MatrixRef y);

// x [T, K] -> y [T, N].
void apply_linear(const Linear& linear, ConstMatrixRef x, MatrixRef y);
// y += the layer's output.
void add_linear(const Linear& linear, ConstMatrixRef x, Workspace& workspace, MatrixRef y);
// Only the outputs [first, first + y.cols()); first is a multiple of 32.
void apply_linear_rows(const Linear& linear, ConstMatrixRef x, int64_t first, MatrixRef y);

// gate [T, n] (or without rows), up [T, n] -> f(gate) * up, or f(up), in up.
void apply_activation(const Config& config, ConstMatrixRef gate, MatrixRef up);

}  // namespace nibble
