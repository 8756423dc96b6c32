// Codebooks by k-means: the levels that minimise the weighted squared error of the weights they
// serve, then round to nearest.
#pragma once

#include <cstdint>
#include <span>

#include "quantizers/solvers/solver.h"
#include "src/tensor/dtype.h"

namespace nibble {

struct KmeansOptions {
  Dtype codebook_type = Dtype::kF16;  // F16, BF16 or F32
  // The global minimum, which needs no seed; else the best of `starts` runs from k-means++ seeds.
  // Measured on normal weights, 4 bits: the best of 8 has 1 % (rows of 2048) to 10 % (groups of
  // 128) more loss.
  bool optimum = true;
  int64_t starts = 8;
  uint64_t seed = 0;
};

// problem.scheme: codebooks (any codebook_blocking) and no other parameters, as kmeans_scheme of
// src/quantized/codebooks.h makes. importance [K]: of the error of each column, as diag(H); empty,
// or zero in all columns of a codebook: all count alike. A codebook of fewer distinct weights than
// levels repeats the largest. The result is the same for any number of threads. Throws
// Error(problem.where, ...) for other schemes, NaN or infinity, importance that is negative or not
// finite, and levels beyond the codebook's type.
SolverResult solve_kmeans(const LinearProblem& problem, const KmeansOptions& options,
                          std::span<const float> importance);

}  // namespace nibble
