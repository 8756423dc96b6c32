#include "kernels/matmul.h"

#include <omp.h>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/fixed_matmul.h"
#include "kernels/row_paths.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// Depth of a step through a panel: its 48 KB and the rows of x beside it stay in L1 and L2.
constexpr int64_t kDepth = 384;
constexpr int64_t kTileRows = 128;  // rows of x per task
constexpr int64_t kTilePanels = 4;  // panels per task
constexpr int64_t kChunk = 64;      // rows of a transposed weight arranged by one task
// Multiplications that are worth waking the other threads for: about 0.1 ms of one token's product.
constexpr int64_t kParallelProducts = int64_t{1} << 20;
constexpr int64_t kAliasing = 1024;  // floats: rows at multiples of 4 KB share few sets of L1

int64_t panels(int64_t n) { return (n + kPanelWidth - 1) / kPanelWidth; }

// A row of a float tensor.
TensorView row_of(const TensorView& w, int64_t row) {
  const size_t bytes = w.bytes.size() / static_cast<size_t>(w.shape[0]);
  return {.dtype = w.dtype,
          .shape = {w.shape[1]},
          .bytes = w.bytes.subspan(static_cast<size_t>(row) * bytes, bytes),
          .device = w.device};
}

void arrange_rows(const TensorView& w, std::span<float> out) {
  const int64_t N = w.shape[0];
  const int64_t K = w.shape[1];
#pragma omp parallel if (!omp_in_parallel())
  {
    std::vector<float> row(K);
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < panels(N); ++panel) {
      for (int64_t n = panel * kPanelWidth; n < std::min(N, (panel + 1) * kPanelWidth); ++n) {
        to_float(row_of(w, n), row);
        float* column = out.data() + panel * kPanelWidth * K + n % kPanelWidth;
        for (int64_t k = 0; k < K; ++k) column[k * kPanelWidth] = row[k];
      }
    }
  }
}

void arrange_columns(const TensorView& w, std::span<float> out) {
  const int64_t K = w.shape[0];
  const int64_t N = w.shape[1];
#pragma omp parallel if (!omp_in_parallel())
  {
    std::vector<float> row(N);
#pragma omp for schedule(static, kChunk)
    for (int64_t k = 0; k < K; ++k) {
      to_float(row_of(w, k), row);
      for (int64_t n = 0; n < N; n += kPanelWidth) {
        const auto first = row.begin() + n;
        std::copy(first, first + std::min(kPanelWidth, N - n),
                  out.data() + n * K + k * kPanelWidth);
      }
    }
  }
}

// Columns [first, first + columns) of rows of x, with a stride at which they do not evict each
// other from L1.
class Rows {
 public:
  explicit Rows(ConstMatrixRef x)
      : x_(x), aliased_(x.rows() >= 8 && x.outerStride() % kAliasing == 0) {}

  void select(int64_t first, int64_t columns) {
    data_ = x_.data() + first;
    stride_ = x_.outerStride();
    if (!aliased_) return;
    copy_.resize(x_.rows(), kDepth + kPanelWidth / 2);
    copy_.leftCols(columns) = x_.middleCols(first, columns);
    data_ = copy_.data();
    stride_ = copy_.cols();
  }
  const float* data() const { return data_; }
  int64_t stride() const { return stride_; }

 private:
  ConstMatrixRef x_;
  bool aliased_;
  Matrix copy_;
  const float* data_ = nullptr;
  int64_t stride_ = 0;
};

// Outputs of the panels [first, last); y begins at the first one's.
void multiply(ConstMatrixRef x, const PanelMatrix& w, int64_t first, int64_t last, MatrixRef y,
              Accumulate accumulate) {
  const RowPath& path = row_path();
  const int64_t whole_panels = y.cols() / kPanelWidth;
  const int64_t rest = y.cols() % kPanelWidth;
  Matrix edge;  // the outputs of a panel that sticks out of y
  if (rest > 0) {
    edge.setZero(y.rows(), kPanelWidth);
    if (accumulate == Accumulate::kYes) edge.leftCols(rest) = y.rightCols(rest);
  }
  const float* weights = w.values.values<float>().data();
  Rows rows(x);
  for (int64_t k = 0; k < w.K; k += kDepth) {
    const int64_t depth = std::min(kDepth, w.K - k);
    rows.select(k, depth);
    for (int64_t panel = first; panel < last; ++panel) {
      const bool whole = panel - first < whole_panels;
      const float* b = weights + (panel * w.K + k) * kPanelWidth;
      path.multiply_tile({.a = rows.data(),
                          .a_stride = rows.stride(),
                          .b = b,
                          .c = whole ? y.data() + (panel - first) * kPanelWidth : edge.data(),
                          .c_stride = whole ? y.outerStride() : kPanelWidth,
                          .rows = y.rows(),
                          .depth = depth,
                          .accumulate = k > 0 || accumulate == Accumulate::kYes,
                          .next = panel + 1 < last ? b + w.K * kPanelWidth : b});
    }
  }
  if (rest > 0) y.rightCols(rest) = edge.leftCols(rest);
}

void multiply_all(ConstMatrixRef x, const PanelMatrix& w, int64_t first, MatrixRef y,
                  Accumulate accumulate) {
  assert(x.cols() == w.K && x.rows() == y.rows() && first % kPanelWidth == 0);
  assert(first + y.cols() <= w.N);
  if (w.is_fixed()) return multiply_fixed(x, w, first, y, accumulate);
  const int64_t first_panel = first / kPanelWidth;
  const int64_t count = panels(y.cols());
  if (omp_in_parallel()) {
    return multiply(x, w, first_panel, first_panel + count, y, accumulate);
  }
  const int64_t row_tiles = (x.rows() + kTileRows - 1) / kTileRows;
  const int64_t panel_tiles = (count + kTilePanels - 1) / kTilePanels;
#pragma omp parallel for schedule(dynamic) if (x.rows() * y.cols() * w.K >= kParallelProducts)
  for (int64_t tile = 0; tile < row_tiles * panel_tiles; ++tile) {
    const int64_t t = tile / panel_tiles * kTileRows;
    const int64_t rows = std::min(kTileRows, x.rows() - t);
    const int64_t panel = tile % panel_tiles * kTilePanels;
    const int64_t last = std::min(count, panel + kTilePanels);
    const int64_t column = panel * kPanelWidth;
    const int64_t columns = std::min(y.cols(), last * kPanelWidth) - column;
    multiply(x.middleRows(t, rows), w, first_panel + panel, first_panel + last,
             y.block(t, column, rows, columns), accumulate);
  }
}

}  // namespace

PanelMatrix make_panels(const TensorView& w, bool transposed, Products products) {
  PanelMatrix result;
  result.N = w.shape[transposed ? 1 : 0];
  result.K = w.shape[transposed ? 0 : 1];
  if (products == Products::kFixed) {
    return make_fixed_panels(
        result.N, result.K, transposed,
        [&](int64_t row, std::span<float> values) { to_float(row_of(w, row), values); });
  }
  result.values = Tensor::allocate(Dtype::kF32, {panels(result.N), result.K, kPanelWidth});
  const std::span<float> out = result.values.mutable_values<float>();
  if (transposed) {
    arrange_columns(w, out);
  } else {
    arrange_rows(w, out);
  }
  return result;
}

PanelMatrix make_panels(const Matrix& w, Products products) {
  return make_panels({.dtype = Dtype::kF32,
                      .shape = {w.rows(), w.cols()},
                      .bytes = std::as_bytes(std::span(w.data(), static_cast<size_t>(w.size()))),
                      .device = Device::kCpu},
                     false, products);
}

void matmul(ConstMatrixRef x, const PanelMatrix& w, MatrixRef y, Accumulate accumulate) {
  assert(y.cols() == w.N);
  multiply_all(x, w, 0, y, accumulate);
}

void matmul_columns(ConstMatrixRef x, const PanelMatrix& w, int64_t first, MatrixRef y) {
  multiply_all(x, w, first, y, Accumulate::kNo);
}

void add_row(Eigen::Ref<const Vector> row, MatrixRef y) {
  assert(row.size() == y.cols());
  const RowPath& path = row_path();
  for (int64_t t = 0; t < y.rows(); ++t) path.add(row.data(), row.size(), y.row(t).data());
}

}  // namespace nibble
