// Histogram of the values of one tensor, for the choice of its range (calibration/ranges.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/tensor/matrix.h"

namespace nibble {

// Bins of width 2^exponent at multiples of it, zero included. When a value falls outside, the width
// doubles until all fit, and pairs of bins become one. Width, first bin and counts are therefore
// those of all values added so far, in whatever order and batches they came.
struct Histogram {
  static constexpr int64_t kBins = 2048;

  int exponent = 0;
  int64_t first = 0;  // bin i holds (first + i) 2^exponent <= x < (first + i + 1) 2^exponent
  std::vector<int64_t> counts;  // [kBins], coarse ones fewer; empty before the first value
  int64_t total = 0;            // values
  float smallest = 0.f;
  float largest = 0.f;
  // Of each batch's extremes m <- 0.9 m + 0.1 (this batch's), from the first batch's.
  float moving_smallest = 0.f;
  float moving_largest = 0.f;

  // One batch. Throws Error(where, ...) naming row and column of NaN or infinity.
  void add(ConstMatrixRef X, const std::string& where);

  // The values of both; the moving extremes become means, weighted by the number of values.
  void add(const Histogram& other);

  // The same values in at most so many bins (2 or more), for ranges that are found faster. Nothing
  // can be added to it.
  Histogram coarse(int64_t bins) const;

  double width() const;
  // Where bin i starts; i = their number: where the last one ends.
  double edge(int64_t i) const;

 private:
  // Bins as the extremes ask for, counts moved into them.
  void fit_bins();
  void add_bins(std::span<const int64_t> others, int64_t others_first, int others_exponent);
};

}  // namespace nibble
