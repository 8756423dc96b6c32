#include "kernels/dequant_matmul.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstdint>
#include <span>
#include <vector>

#include "formats/packing/rows.h"
#include "kernels/dequant_matmul_paths.h"
#include "kernels/matmul.h"
#include "src/tensor/cpu_features.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// From here on panels are faster than rows (4096 x 4096, AVX-512).
constexpr int64_t kFewTokens = 24;
constexpr int64_t kParallelWeights = 1 << 16;

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
  return w.groups == 1 ? row_tiles(w) * tile_chunks(w.bits) : w.group / kDequantChunk;
}

}  // namespace

std::span<const DequantPath* const> dequant_paths() {
  static const std::array<const DequantPath*, 3> all = {&kScalarDequant, &kAvx2Dequant,
                                                        &kAvx512Dequant};
  const CpuFeatures& cpu = cpu_features();
  return std::span(all).first(cpu.avx512 ? 3 : cpu.avx2 ? 2 : 1);
}

int64_t tile_columns(int bits) { return tile_chunks(bits) * kDequantChunk; }

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

int dequant_threads() { return omp_in_parallel() != 0 ? 1 : omp_get_max_threads(); }

void unpack_rows(const PackedLinear& w, int64_t first, MatrixRef out, const DequantPath& path) {
  assert(out.cols() == w.K && first >= 0 && first + out.rows() <= w.N);
  const ExpandRow expand = path.expand(row_kind(w));
  const int64_t tiles = row_tiles(w);
#pragma omp parallel num_threads(dequant_threads()) if (out.size() >= kParallelWeights)
  {
    Tensor buffer = Tensor::allocate(Dtype::kF32, {tiles * tile_columns(w.bits)});
    float* row = buffer.mutable_values<float>().data();
#pragma omp for schedule(static)
    for (int64_t r = 0; r < out.rows(); ++r) {
      expand(packed_row(w, first + r), 0, tiles, row);
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

void dequant_matmul(ConstMatrixRef x, const PackedLinear& w, MatrixRef y, Accumulate accumulate,
                    const DequantPath& path) {
  assert(x.cols() == w.K && y.rows() == x.rows() && y.cols() == w.N);
  if (y.size() == 0) return;
  if (x.rows() <= kFewTokens) {
    multiply_few(x, w, y, accumulate, path);
  } else {
    multiply_many(x, w, y, accumulate, path);
  }
}

void dequant_matmul(ConstMatrixRef x, const PackedLinear& w, MatrixRef y, Accumulate accumulate) {
  dequant_matmul(x, w, y, accumulate, *dequant_paths().back());
}

}  // namespace nibble
