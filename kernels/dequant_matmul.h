// dequant_matmul: y = x * W' with packed quantized weights, which are never expanded in memory as a
// whole. The CPU reference (dequant_matmul_cpu.cc) is the specification; faster variants are
// chosen at run time (cpu_features()).
#pragma once

#include <cstdint>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {

// The run-time form of a QuantizedLinear: codes packed row by row (formats/packing/rows.h),
// parameters in float, second levels applied. Columns are ordered so that equal groups are
// adjacent: with column groups (act-order) `column` says which input each packed column takes.
struct PackedLinear {
  int64_t N = 0;
  int64_t K = 0;
  int bits = 4;               // 2, 3, 4, 8 as packed; others are stored in 8
  std::vector<float> levels;  // [2^bits] level of each code; empty with codebooks
  Tensor words;               // U32, rows padded to whole cache lines
  int64_t row_words = 0;      // words per row
  int64_t group = 0;          // columns per group; the last may be short
  int64_t groups = 0;         // G
  // value = levels[code] * scale + shift, shift = minimum - zero * scale would round differently:
  // kernels compute (level - zero) * scale + minimum as the specification does.
  std::vector<float> scale, zero, minimum;  // [N, G] each, or empty
  std::vector<int32_t> column;              // [K] or empty
  int64_t bytes() const;
};

// Every scheme that quantized_linear.h can describe with a row-wise or per-tensor blocking; others
// (blocks across rows, codebooks per row) are an Error that says to expand them.
bool can_pack(const QuantizedLinear& q);
PackedLinear pack(const QuantizedLinear& q);

// Rows [first, first + out.rows()) of the weights, columns in the packed order.
void unpack_rows(const PackedLinear& w, int64_t first, MatrixRef out);

// x [T, K] -> y [T, N].
void dequant_matmul(ConstMatrixRef x, const PackedLinear& w, MatrixRef y);

}  // namespace nibble
