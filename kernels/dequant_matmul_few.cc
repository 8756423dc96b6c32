// A few tokens: every packed row is walked once, or once per eight tokens while it is in the cache.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/dequant_matmul.h"
#include "kernels/dequant_matmul_paths.h"
#include "kernels/matmul.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kMostTokens = 8;  // that a row is multiplied with together
// Of x: two thirds of a 48 KiB first-level cache (measured; half of it costs 5 % more).
constexpr int64_t kNearFloats = 8192;
// Below this many weights a second thread costs more than it saves: one that sleeps, as it must
// beside other programs, takes some 50 us to wake.
constexpr int64_t kParallelWeights = 1 << 20;
constexpr int64_t kRowsAtOnce = 32;  // that a thread takes

// Tokens of x that a row is multiplied with together.
struct TokenBlock {
  int64_t first;
  int64_t tokens;
  int padded;  // 1, 2, 4 or 8
  Tensor x;    // F32 [chunks][padded][16] for whole tiles, zero where there is no input
};

void interleave(const ConstMatrixRef& x, const PackedLinear& w, TokenBlock& block) {
  float* out = block.x.mutable_values<float>().data();
  for (int64_t t = 0; t < block.tokens; ++t) {
    const float* row = x.data() + (block.first + t) * x.outerStride();
    for (int64_t p = 0; p < w.columns; ++p) {
      const int64_t k = w.column.empty() ? p : w.column[p];
      if (k >= 0)
        out[(p / kDequantChunk * block.padded + t) * kDequantChunk + p % kDequantChunk] = row[k];
    }
  }
}

std::vector<TokenBlock> token_blocks(const ConstMatrixRef& x, const PackedLinear& w) {
  const int64_t columns = row_tiles(w) * tile_columns(w.bits);
  std::vector<TokenBlock> blocks;
  for (int64_t first = 0; first < x.rows(); first += kMostTokens) {
    const int64_t tokens = std::min(kMostTokens, x.rows() - first);
    const int padded = tokens <= 2 ? static_cast<int>(tokens) : tokens <= 4 ? 4 : 8;
    blocks.push_back({first, tokens, padded, Tensor::allocate(Dtype::kF32, {columns * padded})});
    interleave(x, w, blocks.back());
  }
  return blocks;
}

// Rows [first, first + rows) by one block of tokens, in segments of columns whose x stays in the
// first-level cache.
void multiply_rows(const PackedLinear& w, const TokenBlock& block, MultiplyRow multiply,
                   int64_t first, std::span<const PackedRow> rows, MatrixRef& y,
                   Accumulate accumulate) {
  const int64_t tile = tile_columns(w.bits);
  const int64_t tiles = row_tiles(w);
  const int64_t segment = std::max<int64_t>(kNearFloats / block.padded / tile, 1);
  for (int64_t start = 0; start < tiles; start += segment) {
    const float* x = block.x.values<float>().data() + start * tile * block.padded;
    for (size_t r = 0; r < rows.size(); ++r) {
      std::array<float, kMostTokens> sums;
      multiply(rows[r], start, std::min(segment, tiles - start), x, sums.data());
      for (int64_t t = 0; t < block.tokens; ++t) {
        float& out = y(block.first + t, first + static_cast<int64_t>(r));
        out = start == 0 && accumulate == Accumulate::kNo ? sums[t] : out + sums[t];
      }
    }
  }
}

}  // namespace

void multiply_few(ConstMatrixRef x, const PackedLinear& w, MatrixRef y, Accumulate accumulate,
                  const DequantPath& path) {
  const RowKind kind = row_kind(w);
  const std::vector<TokenBlock> blocks = token_blocks(x, w);
#pragma omp parallel for schedule(dynamic) \
    num_threads(dequant_threads()) if (w.N * w.columns >= kParallelWeights)
  for (int64_t first = 0; first < w.N; first += kRowsAtOnce) {
    std::array<PackedRow, kRowsAtOnce> rows;
    const int64_t count = std::min(kRowsAtOnce, w.N - first);
    for (int64_t r = 0; r < count; ++r) rows[r] = packed_row(w, first + r);
    for (const TokenBlock& block : blocks) {
      multiply_rows(w, block, path.multiply(kind, block.padded), first,
                    std::span(rows).first(static_cast<size_t>(count)), y, accumulate);
    }
  }
}

}  // namespace nibble
