// Many tokens: the weights of 32 rows and some hundred columns at a time are expanded into a panel
// as kernels/matmul.h has them, and multiplied as there. Every output is one sum in the order of
// the packed columns: without column groups the bits are those of matmul() with the dequantized
// weights.
#include <emmintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/dequant_matmul.h"
#include "kernels/dequant_matmul_paths.h"
#include "kernels/matmul.h"
#include "kernels/row_paths.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kDepth = 512;       // columns of a panel: whole tiles of every layout
constexpr int64_t kTilePanels = 4;    // per task
constexpr int64_t kTileTokens = 512;  // at most, per task
constexpr int64_t kAliasing = 1024;   // floats: rows at multiples of 4 KB share few sets of L1
constexpr int64_t kExpandRows = 16;   // expanded together; their columns fill a cache line

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool is_usable(const ConstMatrixRef& x, const PackedLinear& w) {
  return w.column.empty() && x.outerStride() % kAliasing != 0;
}

// x with its columns in the packed order and its rows apart, [T, columns + something].
Matrix arrange(const ConstMatrixRef& x, const PackedLinear& w) {
  constexpr int64_t kApart = 16;
  const bool aliases = w.columns % kAliasing == 0;
  Matrix result = Matrix::Zero(x.rows(), w.columns + (aliases ? kApart : 0));
#pragma omp parallel for schedule(static) num_threads(dequant_threads())
  for (int64_t t = 0; t < x.rows(); ++t) {
    const float* row = x.data() + t * x.outerStride();
    if (w.column.empty()) std::copy(row, row + w.K, &result(t, 0));
    for (size_t p = 0; p < w.column.size(); ++p) {
      if (w.column[p] >= 0) result(t, static_cast<int64_t>(p)) = row[w.column[p]];
    }
  }
  return result;
}

// rows [kExpandRows, kDepth] -> panel [depth, kPanelWidth], first kExpandRows columns. In baseline
// instructions: expanding is about 4 % of a product with 256 tokens.
void transpose(const float* rows, float* panel) {
  for (int64_t k = 0; k < kDepth; k += 4) {
    for (int64_t r = 0; r < kExpandRows; r += 4) {
      const float* in = rows + r * kDepth + k;
      __m128 a = _mm_load_ps(in);
      __m128 b = _mm_load_ps(in + kDepth);
      __m128 c = _mm_load_ps(in + 2 * kDepth);
      __m128 d = _mm_load_ps(in + 3 * kDepth);
      _MM_TRANSPOSE4_PS(a, b, c, d);
      float* out = panel + k * kPanelWidth + r;
      _mm_store_ps(out, a);
      _mm_store_ps(out + kPanelWidth, b);
      _mm_store_ps(out + 2 * kPanelWidth, c);
      _mm_store_ps(out + 3 * kPanelWidth, d);
    }
  }
}

// A thread's memory for one panel.
struct Buffers {
  Tensor rows = Tensor::allocate(Dtype::kF32, {kExpandRows, kDepth});
  Tensor panel = Tensor::allocate(Dtype::kF32, {kDepth, kPanelWidth});
  Matrix edge;  // [tokens, kPanelWidth]: outputs of a panel that sticks out of y
};

// Weights of rows [n, n + kPanelWidth), packed columns from k on; rows beyond N are anything
// finite.
const float* expand_panel(const PackedLinear& w, ExpandRow expand, int64_t n, int64_t k,
                          Buffers& buffers) {
  const int64_t tile = tile_columns(w.bits);
  const int64_t tiles = std::min(kDepth / tile, row_tiles(w) - k / tile);
  float* rows = buffers.rows.mutable_values<float>().data();
  float* panel = buffers.panel.mutable_values<float>().data();
  for (int64_t first = 0; first < kPanelWidth; first += kExpandRows) {
    for (int64_t r = 0; r < std::min(kExpandRows, w.N - n - first); ++r) {
      expand(packed_row(w, n + first + r), k / tile, tiles, rows + r * kDepth);
    }
    transpose(rows, panel + first);
  }
  return panel;
}

// Outputs of the panels [first, last), x and y of some tokens.
void multiply_panels(const ConstMatrixRef& x, const PackedLinear& w, ExpandRow expand,
                     int64_t first, int64_t last, MatrixRef y, bool add, Buffers& buffers) {
  const RowPath& path = row_path();
  for (int64_t k = 0; k < w.columns; k += kDepth) {
    for (int64_t panel = first; panel < last; ++panel) {
      const int64_t n = panel * kPanelWidth;
      const int64_t width = std::min(kPanelWidth, w.N - n);
      const bool whole = width == kPanelWidth;
      if (!whole && k == 0) {
        buffers.edge.setZero(y.rows(), kPanelWidth);
        if (add) buffers.edge.leftCols(width) = y.middleCols(n, width);
      }
      const float* weights = expand_panel(w, expand, n, k, buffers);
      path.multiply_tile({.a = x.data() + k,
                          .a_stride = x.outerStride(),
                          .b = weights,
                          .c = whole ? y.data() + n : buffers.edge.data(),
                          .c_stride = whole ? y.outerStride() : kPanelWidth,
                          .rows = y.rows(),
                          .depth = std::min(kDepth, w.columns - k),
                          .accumulate = k > 0 || add,
                          .next = weights});
      if (!whole && k + kDepth >= w.columns) {
        y.middleCols(n, width) = buffers.edge.leftCols(width);
      }
    }
  }
}

// x: columns in the packed order.
void multiply_arranged(const ConstMatrixRef& x, const PackedLinear& w, MatrixRef& y, bool add,
                       const DequantPath& path) {
  const int64_t panels = divide_up(w.N, kPanelWidth);
  const int64_t panel_tiles = divide_up(panels, kTilePanels);
  const int64_t token_tiles = divide_up(y.rows(), kTileTokens);
  const int64_t tokens = divide_up(y.rows(), token_tiles);
  const ExpandRow expand = path.expand(row_kind(w));
#pragma omp parallel num_threads(dequant_threads())
  {
    Buffers buffers;
#pragma omp for schedule(dynamic)
    for (int64_t tile = 0; tile < panel_tiles * token_tiles; ++tile) {
      const int64_t t = tile / panel_tiles * tokens;
      const int64_t count = std::min(tokens, y.rows() - t);
      const int64_t panel = tile % panel_tiles * kTilePanels;
      multiply_panels(x.middleRows(t, count), w, expand, panel,
                      std::min(panels, panel + kTilePanels), y.middleRows(t, count), add, buffers);
    }
  }
}

}  // namespace

void multiply_many(ConstMatrixRef x, const PackedLinear& w, MatrixRef y, Accumulate accumulate,
                   const DequantPath& path) {
  const bool add = accumulate == Accumulate::kYes;
  if (is_usable(x, w)) {
    multiply_arranged(x, w, y, add, path);
  } else {
    multiply_arranged(arrange(x, w), w, y, add, path);
  }
}

}  // namespace nibble
