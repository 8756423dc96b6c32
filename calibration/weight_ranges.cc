#include "calibration/weight_ranges.h"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <string>

#include "calibration/histogram.h"
#include "calibration/ranges.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

// Of a block: a range that ends at one of them is found among thousands of blocks in seconds.
constexpr int64_t kManyWeights = 1024;
constexpr int64_t kBins = 256;
constexpr int64_t kFewBins = 64;

}  // namespace

Matrix cut_to_ranges(ConstMatrixRef W, const Scheme& scheme, RangeMethod method,
                     double percentile) {
  const Blocking& blocking = scheme.blocking;
  assert(scheme.grid.kind == Grid::Kind::kInteger && !blocking.flattened);
  const RangeOptions options = {
      .bits = scheme.grid.bits, .symmetric = !scheme.zero, .percentile = percentile};
  Matrix cut = W;
  if (!W.allFinite()) return cut;
  const int64_t height = blocking.rows == kAll ? W.rows() : std::min(W.rows(), blocking.rows);
  const int64_t width = blocking.columns == kAll ? W.cols() : std::min(W.cols(), blocking.columns);
#pragma omp parallel for collapse(2) schedule(dynamic, 16)
  for (int64_t n = 0; n < W.rows(); n += height) {
    for (int64_t k = 0; k < W.cols(); k += width) {
      auto block = cut.block(n, k, std::min(height, W.rows() - n), std::min(width, W.cols() - k));
      Histogram histogram;
      for (int64_t row = 0; row < block.rows(); ++row) {
        histogram.add(block.middleRows(row, 1), "weights");
      }
      const int64_t bins = block.size() < kManyWeights ? kFewBins : kBins;
      const Range range = find_range(method, histogram.coarse(bins), options);
      if (range.low == range.high) continue;  // zeros
      block = block.cwiseMax(range.low).cwiseMin(range.high).eval();
    }
  }
  return cut;
}

}  // namespace nibble
