// Scheme: what a quantized linear layer is made of, independent of any file format.
//
// A weight is W[n, k] = (level(code[n, k]) - zero) * scale + minimum, in float, in that order, each
// operation rounded once; a parameter that a scheme lacks takes no part (-0 stays -0). Which of the
// three parameters a scheme has, how many weights share them (a block), and how each is stored is
// data here; nothing else differs between int4 groups, NF4 with double quantization, K-quants,
// NVFP4 and per-row codebooks. Arithmetic: src/quantized/quantized_linear.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/tensor/dtype.h"

namespace nibble {

inline constexpr int64_t kAll = -1;     // every row, or every column, of the matrix
inline constexpr int64_t kOneRow = -2;  // second levels: all parameters of one row

// The levels that codes 0 .. 2^bits - 1 stand for.
struct Grid {
  enum class Kind {
    kInteger,   // level(code) = code + lowest
    kTable,     // level(code) = table[code], the same for all weights: NF4, FP4, E2M1, E4M3, ...
    kCodebook,  // level(code) = codebooks[b][code] of the QuantizedLinear, b by codebook_blocking
  };
  Kind kind = Kind::kInteger;
  int bits = 4;                   // 1..8
  int lowest = 0;                 // kInteger: -2^(bits-1) symmetric, 0 asymmetric
  std::string name = {};          // kTable: "nf4", "fp4", "e2m1", "e4m3"
  std::vector<float> table = {};  // kTable: [2^bits]

  // Tables are equal by value: the NaN of E4M3 equals itself, -0 equals 0.
  bool operator==(const Grid& other) const;
};

// Which weights share parameters: blocks of rows x columns, the last ones may be short (ragged),
// or, flattened, runs of `columns` consecutive weights of the row-major matrix, across row ends.
struct Blocking {
  int64_t rows = 1;        // or kAll
  int64_t columns = kAll;  // "group size" when it is a number
  bool flattened = false;

  bool operator==(const Blocking&) const = default;
};

// Parameters that are themselves quantized: value = stored * (or /) second + offset.
struct SecondLevel {
  Dtype type = Dtype::kF16;  // stored type of the second-level values
  int64_t block = kAll;      // first-level parameters, in order, that share one; or kAll, kOneRow
  bool divides = false;      // NVFP4 of compressed-tensors: value = stored / second
  bool has_offset = false;   // bitsandbytes: one float offset for the whole tensor

  bool operator==(const SecondLevel&) const = default;
};

// One kind of block parameter and how it is stored.
struct Parameter {
  Dtype type = Dtype::kF16;
  int bits =
      16;  // significant bits; fewer than the type's for packed integers (U8 with 4, I8 with 6)
  std::vector<float> table =
      {};  // stored integer -> value (bitsandbytes' dynamic map); empty: itself
  std::optional<SecondLevel> second = {};

  bool operator==(const Parameter&) const = default;
};

// Parameters stored in a type of which `bits` are significant.
Parameter stored_as(Dtype type, int bits);

// Quantized activations of the linear's input. Floats: src/quantized/float_inputs.h.
struct ActivationScheme {
  int bits = 8;
  bool symmetric = true;
  bool dynamic = true;     // false: QuantizedLinear::input_scale (and input_zero) are stored
  bool per_token = true;   // false: one scale for the tensor
  bool is_float = false;   // E4M3 (8 bits) or E2M1 (4 bits) instead of integers
  int64_t columns = kAll;  // floats per token: columns that share a scale
  bool divides = false;  // NVFP4: a scale is E4M3 / stored (compressed-tensors), not E4M3 * stored

  bool operator==(const ActivationScheme&) const = default;
};

struct Scheme {
  Grid grid;
  Blocking blocking;
  std::optional<Parameter> scale;
  std::optional<Parameter> zero;     // subtracted from the level; in units of codes
  std::optional<Parameter> minimum;  // added; in units of weights
  Blocking codebook_blocking;        // kCodebook only
  std::optional<ActivationScheme> activations;

  bool symmetric() const { return !zero && !minimum; }
  bool operator==(const Scheme&) const = default;
};

// Integer codes, `group_size` columns of one row sharing a scale of `scale_type` (kAll: the whole
// row; per_tensor: one scale altogether), and, if asymmetric, a zero point 0 .. 2^bits - 1 in U8.
Scheme integer_scheme(int bits, int64_t group_size, bool symmetric, Dtype scale_type,
                      bool per_tensor = false);

// Blocks along a row, blocks altogether. group_count is for row-wise blockings (not flattened).
int64_t group_count(const Blocking& blocking, int64_t K);
int64_t block_count(const Blocking& blocking, int64_t N, int64_t K);
// Second-level values for `blocks` parameters of a matrix with N rows.
int64_t second_count(const SecondLevel& second, int64_t blocks, int64_t N);

// Bits of everything stored for an N x K matrix, divided by N*K; codes at grid.bits, parameters at
// their significant bits, codebooks at `codebook_type`. Column groups add 32 bits per column.
double bits_per_weight(const Scheme& scheme, int64_t N, int64_t K, bool has_column_groups = false,
                       Dtype codebook_type = Dtype::kF16);

// "int4 g128 asymmetric", "int8 per channel symmetric", "nf4 block 64, double-quantized".
std::string describe(const Scheme& scheme);
// "fp8 dynamic per token activations".
std::string describe(const ActivationScheme& activations);

}  // namespace nibble
