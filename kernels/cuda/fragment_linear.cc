#include "kernels/cuda/fragment_linear.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "formats/packing/fragment.h"
#include "formats/packing/matrix.h"
#include "formats/packing/packing.h"
#include "kernels/cuda/parameters.h"
#include "kernels/cuda/weights.h"
#include "kernels/int8_matmul.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// Columns that share parameters; 0: they are not runs of columns along a row.
int64_t group_columns(const QuantizedLinear& q) {
  const Blocking& blocking = q.scheme.blocking;
  if (!q.group_of_column.empty()) return 0;
  if (blocking.flattened) return q.K % blocking.columns == 0 ? blocking.columns : 0;
  return blocking.columns == kAll ? q.K : std::min(blocking.columns, q.K);
}

int64_t padded_groups(const FragmentLinear& w) { return divide_up(w.padded_columns, w.group); }

int64_t parameter_place(const FragmentLinear& w, int64_t n, int64_t g) {
  return g * w.padded_rows + fragment_row_place(n);
}

std::string scale_refusal(const Parameter& scale) {
  if (!scale.second) {
    if (scale.type == Dtype::kF16 || scale.type == Dtype::kBF16 || scale.type == Dtype::kF32) {
      return {};
    }
    return "scales of " + std::string(dtype_name(scale.type));
  }
  const bool mapped = scale.table.size() == 256 && scale.type == Dtype::kU8 &&
                      scale.second->type == Dtype::kF32 && !scale.second->divides &&
                      scale.second->block == kNestedBlock;
  return mapped ? "" : "scales with a second level other than bitsandbytes'";
}

std::string zero_refusal(const QuantizedLinear& q) {
  if (!q.scheme.zero) return {};
  const bool integer = q.scheme.zero->type == Dtype::kU8 || q.scheme.zero->type == Dtype::kI8;
  return integer && !q.scheme.zero->second ? "" : "zero points that are no integers";
}

std::string activation_refusal(const QuantizedLinear& q) {
  const ActivationScheme& activations = *q.scheme.activations;
  if (activations.is_float) return "floating-point activations";
  if (!activations.dynamic || !activations.per_token || !activations.symmetric) {
    return "activations that are not scaled token by token around zero";
  }
  return can_run_int8(q) ? "" : "no 8-bit integer weights of one scale a row";
}

// From a code to what is stored, so that symmetric integers need no zero point.
int code_shift(const Grid& grid, int centre) { return grid.lowest < 0 ? centre + grid.lowest : 0; }

// Codes plus `shift`, modulo 256; padding is 0.
template <typename Layout>
void pack_codes(const QuantizedLinear& q, int shift, FragmentLinear& w) {
  const std::span<const uint8_t> codes = q.codes.values<uint8_t>();
  std::vector<uint8_t> strip(static_cast<size_t>(kPaddedRows * w.padded_columns));
  w.words.resize(static_cast<size_t>(Layout::words(w.padded_rows, w.padded_columns)));
  const int64_t strip_words = Layout::words(kPaddedRows, w.padded_columns);
  for (int64_t row = 0; row < w.padded_rows; row += kPaddedRows) {
    std::fill(strip.begin(), strip.end(), uint8_t{0});
    for (int64_t n = row; n < std::min(row + kPaddedRows, w.N); ++n) {
      for (int64_t k = 0; k < w.K; ++k) {
        strip[(n - row) * w.padded_columns + k] = static_cast<uint8_t>(codes[n * w.K + k] + shift);
      }
    }
    pack_rows<Layout>(strip.data(), kPaddedRows, w.padded_columns, 0, kPaddedRows,
                      w.words.data() + row / kPaddedRows * strip_words);
  }
}

template <typename T>
void pack_scales(const QuantizedLinear& q, FragmentLinear& w) {
  w.scale.resize(static_cast<size_t>(padded_groups(w) * w.padded_rows) * sizeof(T));
  const std::span<const T> stored = q.scale.values.values<T>();
  for (int64_t n = 0; n < w.N; ++n) {
    for (int64_t g = 0; g < w.groups; ++g) {
      std::memcpy(w.scale.data() + static_cast<size_t>(parameter_place(w, n, g)) * sizeof(T),
                  &stored[block_index(q, n, g * w.group)], sizeof(T));
    }
  }
}

void pack_scales(const QuantizedLinear& q, FragmentLinear& w) {
  const Parameter& scale = *q.scheme.scale;
  if (scale.second) {
    w.scale_kind = ScaleKind::kMapped;
    pack_scales<uint8_t>(q, w);
    w.map = scale.table;
    const std::span<const float> second = q.scale.second.values<float>();
    w.second.assign(second.begin(), second.end());
    // padded rows and groups read beyond the end
    w.second.resize(
        static_cast<size_t>(w.padded_rows * w.groups + padded_groups(w)) / kNestedBlock + 1);
    w.offset = q.scale.offset;
  } else if (scale.type == Dtype::kF32) {
    w.scale_kind = ScaleKind::kF32;
    pack_scales<float>(q, w);
  } else {
    w.scale_kind = scale.type == Dtype::kF16 ? ScaleKind::kF16 : ScaleKind::kBF16;
    pack_scales<uint16_t>(q, w);
  }
}

// zero point of the stored codes minus their centre
void pack_zeros(const QuantizedLinear& q, int centre, FragmentLinear& w) {
  const Grid& grid = q.scheme.grid;
  const int constant = code_shift(grid, centre) - grid.lowest - centre;
  if (!q.scheme.zero && constant == 0) return;
  w.zero.resize(static_cast<size_t>(padded_groups(w) * w.padded_rows));
  for (int64_t n = 0; n < w.N; ++n) {
    for (int64_t g = 0; g < w.groups; ++g) {
      const auto zero = static_cast<int>(block_parameters(q, n, g * w.group).zero) + constant;
      assert(zero >= -128 && zero <= 127);
      w.zero[parameter_place(w, n, g)] = static_cast<int8_t>(zero);
    }
  }
}

void pack_for_floats(const QuantizedLinear& q, FragmentLinear& w) {
  const Grid& grid = q.scheme.grid;
  if (grid.kind == Grid::Kind::kTable) {
    w.kind = FragmentKind::kTable;
    std::copy(grid.table.begin(), grid.table.end(), w.levels.begin());
    pack_codes<TableWeights::Layout>(q, 0, w);
  } else if (grid.bits <= 4) {
    w.kind = FragmentKind::kInt4;
    pack_codes<Int4Weights::Layout>(q, code_shift(grid, Int4Weights::kCentre), w);
    pack_zeros(q, Int4Weights::kCentre, w);
  } else {
    w.kind = FragmentKind::kInt8;
    pack_codes<Int8Weights::Layout>(q, code_shift(grid, Int8Weights::kCentre), w);
    pack_zeros(q, Int8Weights::kCentre, w);
  }
  pack_scales(q, w);
}

// Second-level scales of progressive groups, or the scales of the rows.
void pack_row_scales(const QuantizedLinear& q, FragmentLinear& w) {
  const bool progressive = is_progressive(q.scheme);
  w.row_scale.resize(static_cast<size_t>(w.padded_rows));
  if (progressive) {
    to_float(q.scale.second.view(), std::span(w.row_scale).first(static_cast<size_t>(w.N)));
    return;
  }
  for (int64_t n = 0; n < w.N; ++n) w.row_scale[n] = block_parameters(q, n, 0).scale;
}

void pack_for_integers(const QuantizedLinear& q, FragmentLinear& w) {
  pack_row_scales(q, w);
  if (!is_progressive(q.scheme)) {
    w.kind = FragmentKind::kInteger8;
    pack_codes<IntegerBytes>(q, q.scheme.grid.lowest, w);
    return;
  }
  w.kind = FragmentKind::kInteger4;
  w.scale_kind = ScaleKind::kI8;
  pack_codes<IntegerNibbles>(q, 0, w);
  pack_scales<uint8_t>(q, w);
  w.zero.resize(w.scale.size());
  for (int64_t n = 0; n < w.N; ++n) {
    for (int64_t g = 0; g < w.groups; ++g) {
      w.zero[parameter_place(w, n, g)] =
          static_cast<int8_t>(block_parameters(q, n, g * w.group).zero);
    }
  }
}

// Groups of progressive layers begin at tiles of 64 columns.
int64_t group_multiple(const QuantizedLinear& q) { return q.scheme.activations ? 64 : 32; }

std::string group_refusal(const QuantizedLinear& q) {
  const int64_t group = group_columns(q);
  if (group > 0 && (group % group_multiple(q) == 0 || group >= q.K)) return {};
  return "groups that are no runs of a multiple of " + std::to_string(group_multiple(q)) +
         " columns";
}

}  // namespace

std::string fragment_refusal(const QuantizedLinear& q) {
  if (q.scheme.activations) {
    const std::string reason = activation_refusal(q);
    return reason.empty() && is_progressive(q.scheme) ? group_refusal(q) : reason;
  }
  const Grid& grid = q.scheme.grid;
  if (grid.kind == Grid::Kind::kCodebook) return "codebooks";
  if (grid.kind == Grid::Kind::kTable && grid.table.size() != 16)
    return "a table of other than 16 levels";
  if (!q.scheme.scale || q.scheme.minimum) return "parameters other than a scale and a zero point";
  if (std::string reason = group_refusal(q); !reason.empty()) return reason;
  if (std::string reason = scale_refusal(*q.scheme.scale); !reason.empty()) return reason;
  return zero_refusal(q);
}

FragmentLinear pack_fragments(const QuantizedLinear& q, const std::string& where) {
  if (const std::string reason = fragment_refusal(q); !reason.empty()) {
    throw Error(where, describe(q.scheme) + " has no form for the GPU: " + reason,
                "its weights must be expanded");
  }
  FragmentLinear w;
  w.N = q.N;
  w.K = q.K;
  w.padded_rows = divide_up(q.N, kPaddedRows) * kPaddedRows;
  w.padded_columns = divide_up(q.K, kPaddedColumns) * kPaddedColumns;
  const int64_t group = group_columns(q);
  w.groups = group == 0 ? 1 : divide_up(q.K, group);
  w.group = w.groups == 1 ? w.padded_columns : group;
  if (q.scheme.activations) {
    pack_for_integers(q, w);
  } else {
    pack_for_floats(q, w);
  }
  return w;
}

LevelBytes level_bytes(const std::array<float, 16>& levels, bool is_bf16) {
  LevelBytes bytes{};
  for (size_t i = 0; i < levels.size(); ++i) {
    const uint32_t level = is_bf16 ? float_to_bf16(levels[i]) : float_to_f16(levels[i]);
    bytes.low[i / 4] |= (level & 0xff) << 8 * (i % 4);
    bytes.high[i / 4] |= level >> 8 << 8 * (i % 4);
  }
  return bytes;
}

int64_t FragmentLinear::bytes() const {
  return static_cast<int64_t>(words.size() * 4 + scale.size() + zero.size() +
                              (map.size() + second.size() + row_scale.size()) * 4);
}

}  // namespace nibble
