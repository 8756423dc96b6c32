// QuantizedLinear: codes and parameters of one linear layer, exactly as a file stores them, in one
// canonical arrangement. It belongs to no file format; dequantize() defines its weights and with
// that every kernel and every decoder.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {

// Values of one Parameter of the scheme.
struct ParameterValues {
  Tensor values;       // [blocks] of Parameter::type; row-wise blockings: row-major [N, G]
  Tensor second;       // [second_count] of SecondLevel::type; empty without a second level
  float offset = 0.f;  // with SecondLevel::has_offset
};

struct BlockParameters {
  float scale = 1.f;
  float zero = 0.f;
  float minimum = 0.f;
};

struct QuantizedLinear {
  Scheme scheme;
  int64_t N = 0;  // outputs, rows
  int64_t K = 0;  // inputs, columns
  Tensor codes;   // U8 [N, K], 0 .. 2^bits - 1
  ParameterValues scale;
  ParameterValues zero;
  ParameterValues minimum;
  Tensor codebooks;                      // kCodebook: float type [books, 2^bits]
  std::vector<int32_t> group_of_column;  // [K] with row-wise blockings; empty: k / group size
  Tensor input_scale;                    // static activations: float type [1]
  Tensor input_zero;                     // static asymmetric activations: I8 [1]
};

// Throws Error(where, ...) unless every array has the type and size its scheme asks for, codes are
// in range, column groups exist, scales are finite. NaN is named with its block.
void check(const QuantizedLinear& q, const std::string& where);

// Index of the parameters of weight (n, k).
int64_t block_index(const QuantizedLinear& q, int64_t n, int64_t k);
// A parameter's value, second level applied: `index` counts blocks.
float parameter_value(const Parameter& parameter, const ParameterValues& values, int64_t index,
                      int64_t N);
BlockParameters block_parameters(const QuantizedLinear& q, int64_t n, int64_t k);
// level(code) of weight (n, k), before parameters.
float level(const QuantizedLinear& q, int64_t n, int64_t k);

// All parameters as float, second level applied, [blocks] each; absent ones are left empty.
struct FloatParameters {
  std::vector<float> scale;
  std::vector<float> zero;
  std::vector<float> minimum;
};
FloatParameters float_parameters(const QuantizedLinear& q);

// The weights [N, K].
Matrix dequantize(const QuantizedLinear& q);
// Rows [first, first + out.rows()) into out [rows, K]; `parameters` from float_parameters(q).
void dequantize_rows(const QuantizedLinear& q, const FloatParameters& parameters, int64_t first,
                     MatrixRef out);

// What the layer computes when its activations are quantized too (scheme.activations), x [T, K] ->
// [T, N], in float64 on the exact integers: the specification of such kernels. Without
// activation quantization it is x * dequantize(q)'.
Matrix quantized_matmul_reference(ConstMatrixRef x, const QuantizedLinear& q);

// 128-bit hash of everything above except the addresses: two equal layers have equal hashes.
std::array<uint64_t, 2> fingerprint(const QuantizedLinear& q);

}  // namespace nibble
