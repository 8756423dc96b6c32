#include "kernels/dequant_matmul.h"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "formats/packing/rows.h"
#include "kernels/dequant_matmul_paths.h"
#include "src/tensor/cpu_features.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kChunk = 16;
constexpr int64_t kFewTokens = 48;
// Of x: two thirds of a 48 KiB first-level cache (measured; half of it costs 5 % more).
constexpr int64_t kNearFloats = 8192;
// Below this many weights a second thread costs more than it saves (a few us to wake it).
constexpr int64_t kParallelWeights = 1 << 16;
// Rows that a thread takes at a time.
constexpr int64_t kRowsAtOnce = 32;
// A panel of expanded weights [kPanelRows, kPanelColumns] fills half of a 1 MiB second-level cache.
constexpr int64_t kPanelRows = 256;
constexpr int64_t kPanelColumns = 512;  // whole tiles of every layout

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// 64-byte aligned, zero.
class Floats {
 public:
  explicit Floats(int64_t size) : tensor_(Tensor::allocate(Dtype::kF32, {size})) {}
  float* data() { return tensor_.mutable_values<float>().data(); }
  const float* data() const { return tensor_.values<float>().data(); }

 private:
  Tensor tensor_;
};

int thread_count() { return omp_in_parallel() != 0 ? 1 : omp_get_max_threads(); }

// Tokens of x that a row is multiplied with together.
struct TokenBlock {
  int64_t first;
  int64_t tokens;
  int padded;  // 1, 2, 4 or 8
  Floats x;    // [chunks][padded][16] for whole tiles, zero where there is no input
};

void interleave(const ConstMatrixRef& x, const PackedLinear& w, TokenBlock& block) {
  float* out = block.x.data();
  for (int64_t t = 0; t < block.tokens; ++t) {
    const float* row = x.data() + (block.first + t) * x.outerStride();
    for (int64_t p = 0; p < w.columns; ++p) {
      const int64_t k = w.column.empty() ? p : w.column[p];
      if (k >= 0) out[(p / kChunk * block.padded + t) * kChunk + p % kChunk] = row[k];
    }
  }
}

std::vector<TokenBlock> token_blocks(const ConstMatrixRef& x, const PackedLinear& w) {
  constexpr int64_t kMost = 8;
  const int64_t columns = row_tiles(w) * tile_columns(w.bits);
  std::vector<TokenBlock> blocks;
  for (int64_t first = 0; first < x.rows(); first += kMost) {
    const int64_t tokens = std::min(kMost, x.rows() - first);
    const int padded = tokens <= 2 ? static_cast<int>(tokens) : tokens <= 4 ? 4 : 8;
    blocks.push_back({first, tokens, padded, Floats(columns * padded)});
    interleave(x, w, blocks.back());
  }
  return blocks;
}

// Rows [first, first + rows) by one block of tokens, in segments of columns whose x stays in the
// first-level cache.
void multiply_rows(const PackedLinear& w, const TokenBlock& block, MultiplyRow multiply,
                   int64_t first, std::span<const PackedRow> rows, MatrixRef& y) {
  const int64_t tile = tile_columns(w.bits);
  const int64_t tiles = row_tiles(w);
  const int64_t segment = std::max<int64_t>(kNearFloats / block.padded / tile, 1);
  for (int64_t start = 0; start < tiles; start += segment) {
    const float* x = block.x.data() + start * tile * block.padded;
    for (size_t r = 0; r < rows.size(); ++r) {
      std::array<float, 8> sums;
      multiply(rows[r], start, std::min(segment, tiles - start), x, sums.data());
      for (int64_t t = 0; t < block.tokens; ++t) {
        float& out = y(block.first + t, first + static_cast<int64_t>(r));
        out = start == 0 ? sums[t] : out + sums[t];
      }
    }
  }
}

// At most kFewTokens, row by row through the packed words.
void multiply_few(const ConstMatrixRef& x, const PackedLinear& w, MatrixRef& y,
                  const DequantPath& path) {
  const RowKind kind = row_kind(w);
  const std::vector<TokenBlock> blocks = token_blocks(x, w);
#pragma omp parallel for schedule(dynamic) \
    num_threads(thread_count()) if (w.N * w.columns >= kParallelWeights)
  for (int64_t first = 0; first < w.N; first += kRowsAtOnce) {
    std::array<PackedRow, kRowsAtOnce> rows;
    const int64_t count = std::min(kRowsAtOnce, w.N - first);
    for (int64_t r = 0; r < count; ++r) rows[r] = packed_row(w, first + r);
    for (const TokenBlock& block : blocks) {
      multiply_rows(w, block, path.multiply(kind, block.padded), first,
                    std::span(rows).first(static_cast<size_t>(count)), y);
    }
  }
}

// How a product with many tokens is cut into tasks, by the problem alone: the cut decides the bits
// of the result.
struct Cut {
  int64_t rows;    // of weights, expanded together
  int64_t tokens;  // that they are multiplied with
};

Cut cut_of(int64_t T, int64_t N) {
  constexpr int64_t kTasks = 8;       // at least, where the problem is large enough
  constexpr int64_t kLeastRows = 64;  // BLAS packs x anew for every panel
  constexpr int64_t kTokens = 512;    // expanding is then below 3 % of the multiplication
  const int64_t token_tiles = (T + kTokens - 1) / kTokens;
  const int64_t panels = std::max<int64_t>((kTasks + token_tiles - 1) / token_tiles, 1);
  const int64_t rows = round_up((N + panels - 1) / panels, kChunk);
  return {std::clamp(rows, kLeastRows, kPanelRows),
          round_up((T + token_tiles - 1) / token_tiles, 16)};
}

// x with its columns in the packed order, [T, columns].
Matrix gather_columns(const ConstMatrixRef& x, const PackedLinear& w) {
  Matrix result = Matrix::Zero(x.rows(), w.columns);
#pragma omp parallel for schedule(static) num_threads(thread_count())
  for (int64_t t = 0; t < x.rows(); ++t) {
    const float* row = x.data() + t * x.outerStride();
    for (int64_t p = 0; p < w.columns; ++p) {
      if (w.column[p] >= 0) result(t, p) = row[w.column[p]];
    }
  }
  return result;
}

// Weights of rows [first, first + rows), packed columns from k on, into panel [rows,
// kPanelColumns].
void expand_panel(const PackedLinear& w, ExpandRow expand, int64_t first, int64_t rows, int64_t k,
                  float* panel) {
  const int64_t tile = tile_columns(w.bits);
  const int64_t tiles = std::min(kPanelColumns / tile, row_tiles(w) - k / tile);
  for (int64_t r = 0; r < rows; ++r) {
    expand(packed_row(w, first + r), k / tile, tiles, panel + r * kPanelColumns);
  }
}

// x [T, columns], rows `stride` floats apart -> y [T, N]. Every task is a fixed sequence of
// single-threaded BLAS calls (OpenBLAS sees that it is called from a parallel region).
void multiply_many(const float* x, int64_t stride, const PackedLinear& w, MatrixRef& y,
                   const DequantPath& path) {
  const int64_t T = y.rows();
  const Cut cut = cut_of(T, w.N);
  const int64_t panels = (w.N + cut.rows - 1) / cut.rows;
  const int64_t tasks = panels * ((T + cut.tokens - 1) / cut.tokens);
  const ExpandRow expand = path.expand(row_kind(w));
#pragma omp parallel num_threads(thread_count())
  {
    Floats buffer(cut.rows * kPanelColumns);
    float* panel = buffer.data();
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < tasks; ++task) {
      const int64_t n = task % panels * cut.rows;
      const int64_t t = task / panels * cut.tokens;
      const int64_t rows = std::min(cut.rows, w.N - n);
      const int64_t tokens = std::min(cut.tokens, T - t);
      for (int64_t k = 0; k < w.columns; k += kPanelColumns) {
        expand_panel(w, expand, n, rows, k, panel);
        cblas_sgemm(
            CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(tokens),
            static_cast<int>(rows), static_cast<int>(std::min(kPanelColumns, w.columns - k)), 1.f,
            x + t * stride + k, static_cast<int>(stride), panel, kPanelColumns, k == 0 ? 0.f : 1.f,
            y.data() + t * y.outerStride() + n, static_cast<int>(y.outerStride()));
      }
    }
  }
}

template <typename Visit>
auto with_layout(int bits, const Visit& visit) {
  switch (bits) {
    case 2:
      return visit(Rows<2>());
    case 3:
      return visit(Rows<3>());
    case 4:
      return visit(Rows<4>());
    default:
      return visit(Rows<8>());
  }
}

int tile_chunks(int bits) {
  return with_layout(bits, [](auto layout) { return decltype(layout)::kTileChunks; });
}

// Chunks of a group; of a whole row's tiles if there is one group.
int64_t group_chunks(const PackedLinear& w) {
  return w.groups == 1 ? row_tiles(w) * tile_chunks(w.bits) : w.group / kChunk;
}

}  // namespace

std::span<const DequantPath* const> dequant_paths() {
  static const std::array<const DequantPath*, 3> all = {&kScalarDequant, &kAvx2Dequant,
                                                        &kAvx512Dequant};
  const CpuFeatures& cpu = cpu_features();
  return std::span(all).first(cpu.avx512 ? 3 : cpu.avx2 ? 2 : 1);
}

int64_t tile_columns(int bits) { return tile_chunks(bits) * kChunk; }

int64_t row_tiles(const PackedLinear& w) {
  return (w.columns + tile_columns(w.bits) - 1) / tile_columns(w.bits);
}

RowKind row_kind(const PackedLinear& w) {
  RowKind kind{.bits = w.bits, .decoder = Decoder::kTable, .period = tile_chunks(w.bits)};
  if (w.bits == 8) kind.decoder = w.levels.empty() ? Decoder::kInteger : Decoder::kGather;
  const int64_t chunks = group_chunks(w);
  if (chunks % kind.period == 0) return kind;
  kind.period = std::min(kind.period / 2, 8);
  while (chunks % kind.period != 0) kind.period /= 2;
  return kind;
}

PackedRow packed_row(const PackedLinear& w, int64_t n) {
  static constexpr float kZero = 0.f, kOne = 1.f, kMinusZero = -0.f;
  const auto first = [&](const std::vector<float>& values, const float& absent) {
    return values.empty() ? &absent : values.data() + n * w.groups;
  };
  return {.words = w.words.values<uint32_t>().data() + n * w.row_words,
          .levels =
              w.levels.data() + (w.levels.empty() ? 0 : n / w.book_rows * (w.bits == 8 ? 256 : 16)),
          .lowest = w.lowest,
          .scale = first(w.scale, kOne),
          .zero = first(w.zero, kZero),
          .minimum = first(w.minimum, kMinusZero),
          .scale_step = w.scale.empty() ? 0 : 1,
          .zero_step = w.zero.empty() ? 0 : 1,
          .minimum_step = w.minimum.empty() ? 0 : 1,
          .groups = w.groups,
          .group_chunks = group_chunks(w)};
}

void unpack_rows(const PackedLinear& w, int64_t first, MatrixRef out, const DequantPath& path) {
  assert(out.cols() == w.K && first >= 0 && first + out.rows() <= w.N);
  const ExpandRow expand = path.expand(row_kind(w));
  const int64_t tiles = row_tiles(w);
#pragma omp parallel num_threads(thread_count()) if (out.size() >= kParallelWeights)
  {
    Floats buffer(tiles * tile_columns(w.bits));
    const float* row = buffer.data();
#pragma omp for schedule(static)
    for (int64_t r = 0; r < out.rows(); ++r) {
      expand(packed_row(w, first + r), 0, tiles, buffer.data());
      for (int64_t p = 0; p < w.columns; ++p) {
        const int64_t k = w.column.empty() ? p : w.column[p];
        if (k >= 0) out(r, k) = row[p];
      }
    }
  }
}

void unpack_rows(const PackedLinear& w, int64_t first, MatrixRef out) {
  unpack_rows(w, first, out, *dequant_paths().back());
}

void dequant_matmul(ConstMatrixRef x, const PackedLinear& w, MatrixRef y, const DequantPath& path) {
  assert(x.cols() == w.K && y.rows() == x.rows() && y.cols() == w.N);
  if (x.rows() == 0 || w.N == 0) return;
  if (x.rows() <= kFewTokens) {
    multiply_few(x, w, y, path);
  } else if (w.column.empty()) {
    multiply_many(x.data(), x.outerStride(), w, y, path);
  } else {
    const Matrix gathered = gather_columns(x, w);
    multiply_many(gathered.data(), gathered.cols(), w, y, path);
  }
}

void dequant_matmul(ConstMatrixRef x, const PackedLinear& w, MatrixRef y) {
  dequant_matmul(x, w, y, *dequant_paths().back());
}

}  // namespace nibble
