#include "kernels/fixed_matmul.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/fixed_paths.h"
#include "kernels/matmul.h"
#include "kernels/row_paths.h"
#include "src/tensor/cpu_features.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kTileRows = 128;  // rows of x per task: 32 KB of a group
constexpr int64_t kTilePanels = 8;  // panels per task

int64_t count_of(int64_t size, int64_t part) { return (size + part - 1) / part; }

const FixedPath& fixed_path() { return *fixed_paths().back(); }

// One group of a row of W, at its place in the panels.
class PanelWriter {
 public:
  explicit PanelWriter(PanelMatrix& w)
      : values_(w.values.mutable_values<int16_t>().data()),
        scales_(w.scales.mutable_values<float>().data()),
        pairs_(count_of(w.K, 2)),
        groups_(count_of(w.K, kFixedGroup)) {}

  // group: floats of row n from column group * kFixedGroup on.
  void write(int64_t n, int64_t group, std::span<const float> floats) const {
    std::array<int16_t, kFixedGroup> q;
    const int64_t panel = n / kPanelWidth;
    const int64_t column = n % kPanelWidth;
    scales_[(panel * groups_ + group) * kPanelWidth + column] =
        fixed_path().round_group(floats.data(), std::ssize(floats), q.data());
    const int64_t first = panel * pairs_ + group * kFixedGroup / 2;
    int16_t* to = values_ + (first * kPanelWidth + column) * 2;
    for (int64_t pair = 0; pair < count_of(std::ssize(floats), 2); ++pair) {
      to[pair * kPanelWidth * 2] = q[static_cast<size_t>(2 * pair)];
      to[pair * kPanelWidth * 2 + 1] = q[static_cast<size_t>(2 * pair + 1)];
    }
  }

 private:
  int16_t* values_;
  float* scales_;
  int64_t pairs_;
  int64_t groups_;
};

void arrange_rows(const PanelMatrix& w, const PanelWriter& writer, const LoadRow& load) {
#pragma omp parallel if (!omp_in_parallel())
  {
    std::vector<float> row(static_cast<size_t>(w.K));
#pragma omp for schedule(static)
    for (int64_t n = 0; n < w.N; ++n) {
      load(n, row);
      for (int64_t k = 0; k < w.K; k += kFixedGroup) {
        writer.write(n, k / kFixedGroup,
                     {row.data() + k, static_cast<size_t>(std::min(kFixedGroup, w.K - k))});
      }
    }
  }
}

void arrange_columns(const PanelMatrix& w, const PanelWriter& writer, const LoadRow& load) {
#pragma omp parallel if (!omp_in_parallel())
  {
    std::vector<float> row(static_cast<size_t>(w.N));
    Matrix columns(w.N, kFixedGroup);
#pragma omp for schedule(dynamic)
    for (int64_t k = 0; k < w.K; k += kFixedGroup) {
      const int64_t depth = std::min(kFixedGroup, w.K - k);
      for (int64_t i = 0; i < depth; ++i) {
        load(k + i, row);
        columns.col(i) = ConstVectorMap(row.data(), w.N);
      }
      for (int64_t n = 0; n < w.N; ++n) {
        writer.write(n, k / kFixedGroup, {columns.row(n).data(), static_cast<size_t>(depth)});
      }
    }
  }
}

// Rows of x in fixed point, group by group so that the rows of a tile lie side by side.
class FixedRows {
 public:
  FixedRows(ConstMatrixRef x, bool threads)
      : rows_(x.rows()),
        values_(std::make_unique_for_overwrite<int16_t[]>(size(x) * kFixedGroup)),
        scales_(std::make_unique_for_overwrite<float[]>(size(x))) {
    const FixedPath& path = fixed_path();
#pragma omp parallel for schedule(static) if (threads)
    for (int64_t t = 0; t < rows_; ++t) {
      for (int64_t k = 0; k < x.cols(); k += kFixedGroup) {
        const int64_t place = k / kFixedGroup * rows_ + t;
        scales_[place] = path.round_group(x.row(t).data() + k, std::min(kFixedGroup, x.cols() - k),
                                          values_.get() + place * kFixedGroup);
      }
    }
  }

  const int16_t* values(int64_t group, int64_t row) const {
    return values_.get() + (group * rows_ + row) * kFixedGroup;
  }
  const float* scales(int64_t group, int64_t row) const {
    return scales_.get() + group * rows_ + row;
  }

 private:
  static size_t size(ConstMatrixRef x) {
    return static_cast<size_t>(x.rows() * count_of(x.cols(), kFixedGroup));
  }

  int64_t rows_;
  std::unique_ptr<int16_t[]> values_;  // [groups, rows, kFixedGroup]
  std::unique_ptr<float[]> scales_;    // [groups, rows]
};

// y [rows, kPanelWidth] (+)= the rows from `row` on, times a panel.
void multiply_panel(const FixedRows& x, int64_t row, int64_t rows, const PanelMatrix& w,
                    int64_t panel, float* y, int64_t y_stride, Accumulate accumulate) {
  const int64_t pairs = count_of(w.K, 2);
  const int64_t groups = count_of(w.K, kFixedGroup);
  const int16_t* values = w.values.values<int16_t>().data() + panel * pairs * kPanelWidth * 2;
  const float* scales = w.scales.values<float>().data() + panel * groups * kPanelWidth;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t first = group * kFixedGroup / 2;
    fixed_path().multiply({.x = x.values(group, row),
                           .x_scale = x.scales(group, row),
                           .w = values + first * kPanelWidth * 2,
                           .w_scale = scales + group * kPanelWidth,
                           .y = y,
                           .y_stride = y_stride,
                           .rows = rows,
                           .pairs = std::min(kFixedGroup / 2, pairs - first),
                           .accumulate = group > 0 || accumulate == Accumulate::kYes});
  }
}

// The rows of y from `row` on, y's first column is panel `first`'s first output.
void multiply_tile(const FixedRows& x, int64_t row, const PanelMatrix& w, int64_t first,
                   MatrixRef y, Accumulate accumulate) {
  for (int64_t column = 0; column < y.cols(); column += kPanelWidth) {
    const int64_t panel = first + column / kPanelWidth;
    const int64_t width = std::min(kPanelWidth, y.cols() - column);
    if (width == kPanelWidth) {
      multiply_panel(x, row, y.rows(), w, panel, y.data() + column, y.outerStride(), accumulate);
      continue;
    }
    Matrix edge = Matrix::Zero(y.rows(), kPanelWidth);
    edge.leftCols(width) = y.middleCols(column, width);
    multiply_panel(x, row, y.rows(), w, panel, edge.data(), kPanelWidth, accumulate);
    y.middleCols(column, width) = edge.leftCols(width);
  }
}

}  // namespace

std::span<const FixedPath* const> fixed_paths() {
  static const std::array<const FixedPath*, 3> all = {&kScalarFixed, &kAvx2Fixed, &kVnniFixed};
  const CpuFeatures& cpu = cpu_features();
  return std::span(all).first(cpu.avx512_vnni ? 3 : cpu.avx2 ? 2 : 1);
}

bool has_fast_fixed_products() { return &fixed_path() == &kVnniFixed; }

PanelMatrix make_fixed_panels(int64_t N, int64_t K, bool transposed, const LoadRow& load) {
  const int64_t panels = count_of(N, kPanelWidth);
  PanelMatrix w{
      .N = N,
      .K = K,
      .values = Tensor::allocate(Dtype::kI16, {panels, count_of(K, 2), kPanelWidth, 2}),
      .scales = Tensor::allocate(Dtype::kF32, {panels, count_of(K, kFixedGroup), kPanelWidth})};
  const PanelWriter writer(w);
  if (transposed) {
    arrange_columns(w, writer, load);
  } else {
    arrange_rows(w, writer, load);
  }
  return w;
}

void multiply_fixed(ConstMatrixRef x, const PanelMatrix& w, int64_t first, MatrixRef y,
                    Accumulate accumulate) {
  const int64_t first_panel = first / kPanelWidth;
  if (omp_in_parallel()) {
    const FixedRows rows(x, false);
    for (int64_t t = 0; t < x.rows(); t += kTileRows) {
      const int64_t count = std::min(kTileRows, x.rows() - t);
      multiply_tile(rows, t, w, first_panel, y.middleRows(t, count), accumulate);
    }
    return;
  }
  const FixedRows rows(x, true);
  const int64_t width = kTilePanels * kPanelWidth;
  const int64_t row_tiles = count_of(x.rows(), kTileRows);
  const int64_t column_tiles = count_of(y.cols(), width);
#pragma omp parallel for schedule(dynamic)
  for (int64_t tile = 0; tile < row_tiles * column_tiles; ++tile) {
    const int64_t t = tile / column_tiles * kTileRows;
    const int64_t column = tile % column_tiles * width;
    multiply_tile(
        rows, t, w, first_panel + column / kPanelWidth,
        y.block(t, column, std::min(kTileRows, x.rows() - t), std::min(width, y.cols() - column)),
        accumulate);
  }
}

}  // namespace nibble
