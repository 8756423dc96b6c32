// InputStatistics: what calibration keeps of the inputs X [T, K] that some linear layers share, and
// InputSums, which adds them up.
#pragma once

#include <cstdint>
#include <string>

#include "calibration/histogram.h"
#include "kernels/hessian.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct InputStatistics {
  int64_t tokens = 0;
  Matrix H;              // [K, K] X'X / tokens, both triangles; symmetric
  Vector mean_absolute;  // [K] mean of |x|
  Vector largest;        // [K] max of |x|
  Histogram histogram;   // of all values; empty: not asked for, or the inputs were rescaled since
};

// gram [K, K]: X'X, upper triangle.
InputStatistics statistics_of(Matrix gram, const ColumnSums& columns, int64_t tokens);

// add* finish.
class InputSums {
 public:
  explicit InputSums(int64_t K, bool with_histogram = false);

  // X [T, K]. Throws Error(where, ...) naming token and column of NaN or infinity.
  void add(ConstMatrixRef X, const std::string& where);
  int64_t tokens() const { return tokens_; }
  InputStatistics finish() &&;

 private:
  int64_t tokens_ = 0;
  Matrix gram_;  // [K, K] upper triangle
  ColumnSums columns_;
  bool with_histogram_;
  Histogram histogram_;
};

// The statistics of the tokens of both.
void merge(InputStatistics& statistics, const InputStatistics& others);

// The same inputs divided by `scales` [K], column by column: what a layer sees whose weights were
// multiplied by them. Loses the histogram.
void divide_inputs(InputStatistics& statistics, const Vector& scales);

}  // namespace nibble
