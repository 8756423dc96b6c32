#include "kernels/fixed_matmul.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <cassert>
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

constexpr int64_t kTileRows = 128;      // rows of x per task: 32 KB of a group
constexpr int64_t kTilePanels = 8;      // panels per task
constexpr int64_t kAliasing = 256;      // floats: rows at multiples of 1 KB share few sets of L1
constexpr int64_t kGroupsTogether = 8;  // of the rows of a tile: 256 KB that stay in L2

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

// Groups [first, last) of K.
struct GroupRange {
  int64_t first;
  int64_t last;
};

// y [rows, kPanelWidth] = the rows of x from `row` on, times those groups of a panel; added to what
// is there if asked or if earlier groups are.
void multiply_panel(const FixedRows& x, int64_t row, int64_t rows, const PanelMatrix& w,
                    int64_t panel, const GroupRange& range, float* y, int64_t y_stride,
                    Accumulate accumulate) {
  const int64_t pairs = count_of(w.K, 2);
  const int64_t groups = count_of(w.K, kFixedGroup);
  const int16_t* values = w.values.values<int16_t>().data() + panel * pairs * kPanelWidth * 2;
  const float* scales = w.scales.values<float>().data() + panel * groups * kPanelWidth;
  for (int64_t group = range.first; group < range.last; ++group) {
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

// The rows of x from `row` on; y's first column is panel `first`'s first output.
void multiply_tile(const FixedRows& x, int64_t row, const PanelMatrix& w, int64_t first,
                   MatrixRef y, Accumulate accumulate) {
  const int64_t groups = count_of(w.K, kFixedGroup);
  const bool aliased = y.outerStride() % kAliasing == 0;
  Matrix apart;  // outputs of a panel that sticks out of y, or whose rows evict each other from L1
  for (int64_t group = 0; group < groups; group += kGroupsTogether) {
    const GroupRange range = {group, std::min(groups, group + kGroupsTogether)};
    for (int64_t column = 0; column < y.cols(); column += kPanelWidth) {
      const int64_t panel = first + column / kPanelWidth;
      const int64_t width = std::min(kPanelWidth, y.cols() - column);
      if (width == kPanelWidth && !aliased) {
        multiply_panel(x, row, y.rows(), w, panel, range, y.data() + column, y.outerStride(),
                       accumulate);
        continue;
      }
      apart.resize(y.rows(), kPanelWidth);
      apart.leftCols(width) = y.middleCols(column, width);
      multiply_panel(x, row, y.rows(), w, panel, range, apart.data(), kPanelWidth, accumulate);
      y.middleCols(column, width) = apart.leftCols(width);
    }
  }
}

}  // namespace

std::span<const FixedPath* const> fixed_paths() {
  static const std::array<const FixedPath*, 3> all = {&kScalarFixed, &kAvx2Fixed, &kVnniFixed};
  const CpuFeatures& cpu = cpu_features();
  return std::span(all).first(cpu.avx512_vnni ? 3 : cpu.avx2 ? 2 : 1);
}

FixedRows::FixedRows(ConstMatrixRef x) : rows_(x.rows()) {
  const auto size = static_cast<size_t>(rows_ * count_of(x.cols(), kFixedGroup));
  values_ = std::make_unique_for_overwrite<int16_t[]>(size * kFixedGroup);
  scales_ = std::make_unique_for_overwrite<float[]>(size);
  const FixedPath& path = fixed_path();
#pragma omp parallel for schedule(static) if (!omp_in_parallel())
  for (int64_t t = 0; t < rows_; ++t) {
    for (int64_t k = 0; k < x.cols(); k += kFixedGroup) {
      const int64_t place = k / kFixedGroup * rows_ + t;
      scales_[static_cast<size_t>(place)] =
          path.round_group(x.row(t).data() + k, std::min(kFixedGroup, x.cols() - k),
                           values_.get() + place * kFixedGroup);
    }
  }
}

bool has_fast_fixed_products() { return &fixed_path() == &kVnniFixed; }

PanelMatrix make_fixed_panels(int64_t N, int64_t K) {
  const int64_t panels = count_of(N, kPanelWidth);
  return {.N = N,
          .K = K,
          .values = Tensor::allocate(Dtype::kI16, {panels, count_of(K, 2), kPanelWidth, 2}),
          .scales = Tensor::allocate(Dtype::kF32, {panels, count_of(K, kFixedGroup), kPanelWidth})};
}

PanelMatrix make_fixed_panels(int64_t N, int64_t K, bool transposed, const LoadRow& load) {
  PanelMatrix w = make_fixed_panels(N, K);
  const PanelWriter writer(w);
  if (transposed) {
    arrange_columns(w, writer, load);
  } else {
    arrange_rows(w, writer, load);
  }
  return w;
}

void set_fixed_columns(ConstMatrixRef columns, int64_t first, PanelMatrix& w) {
  assert(first % kFixedGroup == 0 && first + columns.rows() <= w.K && columns.cols() == w.N);
  const PanelWriter writer(w);
  Matrix rows(w.N, kFixedGroup);
  for (int64_t k = 0; k < columns.rows(); k += kFixedGroup) {
    const int64_t depth = std::min(kFixedGroup, columns.rows() - k);
    rows.leftCols(depth) = columns.middleRows(k, depth).transpose();
    for (int64_t n = 0; n < w.N; ++n) {
      writer.write(n, (first + k) / kFixedGroup, {rows.row(n).data(), static_cast<size_t>(depth)});
    }
  }
}

void multiply_fixed(const FixedRows& x, int64_t row, const PanelMatrix& w, MatrixRef y) {
  assert(row + y.rows() <= x.rows() && y.cols() == w.N);
  for (int64_t t = 0; t < y.rows(); t += kTileRows) {
    const int64_t count = std::min(kTileRows, y.rows() - t);
    multiply_tile(x, row + t, w, 0, y.middleRows(t, count), Accumulate::kNo);
  }
}

void multiply_fixed(ConstMatrixRef x, const PanelMatrix& w, int64_t first, MatrixRef y,
                    Accumulate accumulate) {
  const int64_t first_panel = first / kPanelWidth;
  const FixedRows rows(x);
  if (omp_in_parallel()) {
    for (int64_t t = 0; t < x.rows(); t += kTileRows) {
      const int64_t count = std::min(kTileRows, x.rows() - t);
      multiply_tile(rows, t, w, first_panel, y.middleRows(t, count), accumulate);
    }
    return;
  }
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
