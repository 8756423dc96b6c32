// dequant_matmul: y = x * W' with packed quantized weights, which are never expanded in memory as a
// whole. dequant_matmul_reference (dequant_matmul_cpu.cc) is the specification; faster variants are
// chosen at run time (kernels/dequant_matmul_paths.h). Every variant multiplies with exactly the
// floats that dequantize() gives; they differ in the order and precision of the sums alone.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/matmul.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {

// The run-time form of a QuantizedLinear: codes packed row by row (formats/packing/rows.h),
// parameters in float, second levels applied. Packed columns are ordered so that those of a group
// are adjacent, and every group starts at a multiple of 16: groups of another size, and uneven
// column groups, are padded with columns of code 0 that take no input.
struct PackedLinear {
  int64_t N = 0;
  int64_t K = 0;
  int64_t columns = 0;  // packed columns, >= K: the row ends at the last one that takes an input
  int bits = 4;         // 2, 3, 4 or 8 as packed: 1 is stored in 2, and 5 to 7 in 8
  Tensor words;         // U32 [N, row_words]
  int64_t row_words = 0;

  // Level of a code: code + lowest when bits is 8 and the grid is integer (levels is empty), else
  // levels[n / book_rows][code].
  int lowest = 0;
  std::vector<float>
      levels;             // [books, 16], or [books, 256] with 8 bits; codes repeat: [c % 2^bits]
  int64_t book_rows = 0;  // rows that share a book; N: one book

  // Group of packed column p: p / group. Weight: (level - zero) * scale + minimum, in float.
  int64_t group = 0;   // packed columns per group, a multiple of 16 unless there is one group
  int64_t groups = 0;  // G
  std::vector<float> scale, zero, minimum;  // [N, G] each, or empty
  std::vector<int32_t> column;  // [columns]: the input that feeds each, -1: none; empty: p itself

  int64_t bytes() const;  // of all arrays
};

// True for row-wise blockings of any height, column groups, and flattened blocks that do not cross
// a row at a column that is no multiple of 16; codebooks of whole rows. False for codebooks of
// column groups, and where padding would more than quadruple the columns: those must be expanded.
bool can_pack(const QuantizedLinear& q);
// q as check() accepts it. Throws Error when !can_pack(q).
PackedLinear pack(const QuantizedLinear& q);

// Rows [first, first + out.rows()) of the weights, columns in their original order: bit for bit
// those of dequantize().
void unpack_rows(const PackedLinear& w, int64_t first, MatrixRef out);

// x [T, K] -> y [T, N], added to what is there if asked. Uses all threads, or the calling one
// inside a parallel region; the result does not depend on their number. Up to 24 tokens go row by
// row through the packed words. More are multiplied with panels of expanded weights, 96 KB per
// thread: as matmul() with the dequantized weights, bit for bit unless there are column groups.
void dequant_matmul(ConstMatrixRef x, const PackedLinear& w, MatrixRef y,
                    Accumulate accumulate = Accumulate::kNo);

// The specification: weights decoded one by one through the packing, sums in float64.
void dequant_matmul_reference(ConstMatrixRef x, const PackedLinear& w, MatrixRef y);

}  // namespace nibble
