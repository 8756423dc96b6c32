// The instruction-set paths behind kernels/dequant_matmul.h. Private: only dequant_matmul*.cc and
// the test and benchmark that compare the paths include it.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/dequant_matmul.h"
#include "kernels/matmul.h"
#include "src/tensor/matrix.h"

namespace nibble {

// One row of a PackedLinear. Absent parameters point at a neutral value (0, 1, -0) with step 0.
struct PackedRow {
  const uint32_t* words;
  const float* levels;  // [16] or [256] of the row; unused by the integer decoder
  int lowest;
  const float* scale;  // of group 0
  const float* zero;
  const float* minimum;
  int64_t scale_step;  // from one group to the next: 1 or 0
  int64_t zero_step;
  int64_t minimum_step;
  int64_t groups;
  int64_t group_chunks;  // chunks per group; one group: at least those of the row
};

enum class Decoder {
  kTable,    // 2, 3, 4 bits: a register of 16 levels
  kInteger,  // 8 bits: code + lowest
  kGather,   // 8 bits: 256 levels in memory
};

// What selects a kernel, the same for all rows of a PackedLinear.
struct RowKind {
  int bits = 4;
  Decoder decoder = Decoder::kTable;
  // Groups begin only at chunks that are a multiple of this: the largest of {chunks of a tile, 8,
  // 4, 2, 1} that divides the chunks of a group.
  int period = 1;

  bool operator==(const RowKind&) const = default;
};

RowKind row_kind(const PackedLinear& w);
PackedRow packed_row(const PackedLinear& w, int64_t n);
int64_t row_tiles(const PackedLinear& w);
int64_t tile_columns(int bits);

// sums[t] = sum over the columns of tiles [first, first + tiles) of x[t, column] * weight.
// x  [chunks][tokens][16] from the first tile on, zero where there is no input; 64-byte aligned
using MultiplyRow = void (*)(const PackedRow& row, int64_t first, int64_t tiles, const float* x,
                             float* sums);
// Weights of tiles [first, first + tiles) into out [tiles * tile columns], 64-byte aligned.
using ExpandRow = void (*)(const PackedRow& row, int64_t first, int64_t tiles, float* out);

struct DequantPath {
  const char* name;
  MultiplyRow (*multiply)(RowKind kind, int tokens);  // tokens: 1, 2, 4 or 8
  ExpandRow (*expand)(RowKind kind);
};

extern const DequantPath kScalarDequant;
extern const DequantPath kAvx2Dequant;
extern const DequantPath kAvx512Dequant;

// Those that may run here, the fastest last.
std::span<const DequantPath* const> dequant_paths();

// Packed columns that every kernel takes at once; a group begins at a multiple.
inline constexpr int64_t kDequantChunk = 16;

// All, or one inside a parallel region.
int dequant_threads();

// The two ways: row by row through the packed words, and by panels of expanded weights.
void multiply_few(ConstMatrixRef x, const PackedLinear& w, MatrixRef y, Accumulate accumulate,
                  const DequantPath& path);
void multiply_many(ConstMatrixRef x, const PackedLinear& w, MatrixRef y, Accumulate accumulate,
                   const DequantPath& path);

// The public functions by one path.
void dequant_matmul(ConstMatrixRef x, const PackedLinear& w, MatrixRef y, Accumulate accumulate,
                    const DequantPath& path);
void unpack_rows(const PackedLinear& w, int64_t first, MatrixRef out, const DequantPath& path);

}  // namespace nibble
