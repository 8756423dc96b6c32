// Rounding a layer a few rows at a time: from the stored weights to codes that are measured and
// counted, all while they are in a core's cache. As many bytes of memory as a layer of floats has
// are then neither written nor read.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>

#include "quantizers/solvers/solver.h"
#include "src/quantized/comparison.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {

struct RoundedRows {
  SolverResult result;
  Comparison comparison;              // with the weights, summed in the order of the rows
  std::array<int64_t, 256> counts{};  // of each code
};

// stored [N, K], of a float type. solve: what makes a layer of rows that are one below the other,
// for a scheme of which has_own_rows() holds; on several threads at once. The same layer as solve
// makes of all rows. Empty where it throws: what it says of a few rows would name the wrong ones.
std::optional<RoundedRows> round_rows(const TensorView& stored,
                                      const std::function<SolverResult(const Matrix&)>& solve);

}  // namespace nibble
