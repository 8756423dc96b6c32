// FragmentLinear: a QuantizedLinear as the GPU kernels of this folder read it, in host memory:
// codes in a layout of formats/packing/fragment.h, parameters as stored, rows and columns padded to
// whole tiles. Made once, copied to the device as it is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/parameters.h"
#include "kernels/cuda/weights.h"

namespace nibble {

struct QuantizedLinear;  // src/quantized/quantized_linear.h: not for CUDA sources

inline constexpr int64_t kPaddedRows = 64;      // of which padded_rows is a multiple
inline constexpr int64_t kPaddedColumns = 128;  // and padded_columns

enum class FragmentKind {
  kInt4,      // Int4Weights: integers of up to 4 bits
  kInt8,      // Int8Weights: of 5 to 8
  kTable,     // TableWeights: 16 levels
  kInteger8,  // for 8-bit activations: IntegerBytes, signed
  kInteger4,  // likewise: IntegerNibbles, progressive groups (src/quantized/second_level.h)
};

struct FragmentLinear {
  FragmentKind kind = FragmentKind::kInt4;
  int64_t N = 0;
  int64_t K = 0;
  int64_t padded_rows = 0;
  int64_t padded_columns = 0;
  std::vector<uint32_t> words;

  // 16-bit activations: LayerParameters. Arrays [padded groups, padded rows] in the order of
  // fragment_row_place; padding is 0.
  ScaleKind scale_kind = ScaleKind::kF16;
  std::vector<std::byte> scale;
  std::vector<int8_t> zero;  // empty: all 0
  std::vector<float> map, second;
  float offset = 0.F;
  int64_t group = 0;  // columns, a multiple of 32
  int64_t groups = 0;
  std::array<float, 16> levels{};  // kTable

  // 8-bit activations. kInteger4: scale is I8 and zero the zero points, as above.
  std::vector<float> row_scale;  // [padded rows]

  int64_t bytes() const;  // of all arrays
};

// Empty if the layer can be packed; else the reason. Integers and tables of 16 levels, scales of
// F16, BF16 or F32, or in the dynamic map; groups of columns along the row, multiples of 32, in
// their order; zero points that are integers. With activations: what int8_matmul takes
// (kernels/int8_matmul.h), dynamic per token and symmetric.
std::string fragment_refusal(const QuantizedLinear& q);
// Throws Error(where, ...) with that reason.
FragmentLinear pack_fragments(const QuantizedLinear& q, const std::string& where);

// Levels in 16-bit floats, rounded; is_bf16: which.
LevelBytes level_bytes(const std::array<float, 16>& levels, bool is_bf16);

}  // namespace nibble
