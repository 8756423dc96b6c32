// The fixed-point half of matmul (kernels/matmul.h), and its two operands apart, for products whose
// factors change piece by piece.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "kernels/fixed_paths.h"
#include "kernels/matmul.h"
#include "src/tensor/matrix.h"

namespace nibble {

// load(row, values): a row of W [N, K], or of its transpose [K, N] if transposed; called by several
// threads at once.
using LoadRow = std::function<void(int64_t, std::span<float>)>;
PanelMatrix make_fixed_panels(int64_t N, int64_t K, bool transposed, const LoadRow& load);

// W = 0 [N, K], to be set in columns.
PanelMatrix make_fixed_panels(int64_t N, int64_t K);
// The columns [first, first + columns.rows()) of W, first a multiple of kFixedGroup; columns
// [.., N] is their transpose. On the calling thread.
void set_fixed_columns(ConstMatrixRef columns, int64_t first, PanelMatrix& w);

// x [T, K] in fixed point, group by group so that the rows of a tile lie side by side. Uses all
// threads, or the calling one inside a parallel region.
class FixedRows {
 public:
  FixedRows() = default;
  explicit FixedRows(ConstMatrixRef x);

  int64_t rows() const { return rows_; }
  const int16_t* values(int64_t group, int64_t row) const {
    return values_.get() + (group * rows_ + row) * kFixedGroup;
  }
  const float* scales(int64_t group, int64_t row) const {
    return scales_.get() + group * rows_ + row;
  }

 private:
  int64_t rows_ = 0;
  std::unique_ptr<int16_t[]> values_;  // [groups, rows, kFixedGroup]
  std::unique_ptr<float[]> scales_;    // [groups, rows]
};

// y [y.rows(), y.cols()] = the rows of x from `row` on, times w', on the calling thread.
void multiply_fixed(const FixedRows& x, int64_t row, const PanelMatrix& w, MatrixRef y);

// The outputs [first, first + y.cols()) of x w', added to y if asked; first is a multiple of 32.
// Uses all threads, or the calling one inside a parallel region.
void multiply_fixed(ConstMatrixRef x, const PanelMatrix& w, int64_t first, MatrixRef y,
                    Accumulate accumulate);

}  // namespace nibble
