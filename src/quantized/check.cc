#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

std::string text(int64_t value) { return std::to_string(value); }

std::string place(const QuantizedLinear& q, int64_t block) {
  return block_place(q.scheme.blocking, q.N, q.K, block);
}

void check_blocking(const Blocking& blocking, const std::string& where) {
  const bool rows = blocking.rows == kAll || blocking.rows > 0;
  const bool columns = blocking.columns == kAll || blocking.columns > 0;
  if (!rows || !columns) {
    throw Error(where, "blocks of " + text(blocking.rows) + " x " + text(blocking.columns) +
                           " weights, expected positive sizes or all");
  }
  if (blocking.flattened && (blocking.rows != 1 || blocking.columns == kAll)) {
    throw Error(where, "blocks of a flattened matrix have rows " + text(blocking.rows) +
                           ", columns " + text(blocking.columns) +
                           ", expected 1 row and a number of weights");
  }
}

void check_grid(const Grid& grid, const std::string& where) {
  if (grid.bits < 1 || grid.bits > 8) {
    throw Error(where, "codes of " + text(grid.bits) + " bits, expected 1 to 8");
  }
  const size_t expected = grid.kind == Grid::Kind::kTable ? size_t{1} << grid.bits : 0;
  if (grid.table.size() != expected) {
    throw Error(where, "table of " + std::to_string(grid.table.size()) + " levels, expected " +
                           std::to_string(expected));
  }
}

// Stored type, significant bits and table of a kind of parameter.
void check_parameter(const Parameter& parameter, const Blocking& blocking,
                     const std::string& where) {
  const bool integer = parameter.type == Dtype::kU8 || parameter.type == Dtype::kI8;
  if (!integer && (!is_float(parameter.type) || parameter.type == Dtype::kF64)) {
    throw Error(where, "type " + std::string(dtype_name(parameter.type)),
                "expected U8, I8 or a float type of at most 32 bits");
  }
  const int type_bits = dtype_bits(parameter.type);
  if (parameter.bits != type_bits && (!integer || parameter.bits < 1 || parameter.bits > 8)) {
    throw Error(where, text(parameter.bits) + " significant bits in " +
                           std::string(dtype_name(parameter.type)));
  }
  if (!parameter.table.empty() &&
      (parameter.type != Dtype::kU8 || parameter.table.size() != size_t{1} << parameter.bits)) {
    throw Error(where,
                "table of " + std::to_string(parameter.table.size()) + " values for " +
                    text(parameter.bits) + " bits of " + std::string(dtype_name(parameter.type)),
                "expected one value for each U8 code");
  }
  if (!parameter.second) return;
  const SecondLevel& second = *parameter.second;
  if (!is_float(second.type) || second.type == Dtype::kF64) {
    throw Error(where, "second level of type " + std::string(dtype_name(second.type)),
                "expected a float type of at most 32 bits");
  }
  if (second.block < 1 && second.block != kAll && second.block != kOneRow) {
    throw Error(where, text(second.block) + " values share one of the second level",
                "expected a positive number, all or one row");
  }
  if (second.block == kOneRow && (blocking.flattened || blocking.rows != 1)) {
    throw Error(where, "a second level per row needs blocks inside one row");
  }
}

void check_count(const Tensor& tensor, Dtype type, int64_t count, const std::string& where) {
  if (tensor.dtype() != type || tensor.empty() || tensor.elements() != count) {
    const std::string found =
        tensor.empty() ? "nothing"
                       : std::string(dtype_name(tensor.dtype())) + " " + to_string(tensor.shape());
    throw Error(where, "found " + found + ", expected " + text(count) + " values of " +
                           std::string(dtype_name(type)));
  }
}

// Packed integers must fit in their significant bits.
void check_significant_bits(const QuantizedLinear& q, const Parameter& parameter,
                            const Tensor& values, const std::string& where) {
  const bool is_signed = parameter.type == Dtype::kI8;
  if (is_float(parameter.type) || parameter.bits == 8) return;
  const int low = is_signed ? -(1 << (parameter.bits - 1)) : 0;
  const int high = low + (1 << parameter.bits) - 1;
  for (int64_t i = 0; i < values.elements(); ++i) {
    const auto at = static_cast<size_t>(i);
    const int value = is_signed ? values.values<int8_t>()[at] : values.values<uint8_t>()[at];
    if (value < low || value > high) {
      throw Error(where, text(value) + " at " + place(q, i) + ", expected " + text(low) + " to " +
                             text(high));
    }
  }
}

void check_values(const QuantizedLinear& q, const std::optional<Parameter>& parameter,
                  const ParameterValues& values, const std::string& where) {
  const bool has_second = parameter && parameter->second;
  if (!has_second && !values.second.empty()) {
    throw Error(where, "second-level values, but the scheme has no second level");
  }
  if (!(has_second && parameter->second->has_offset) && values.offset != 0.f) {
    throw Error(where,
                "an offset of " + std::to_string(values.offset) + ", but the scheme has none");
  }
  if (!parameter) {
    if (!values.values.empty()) throw Error(where, "values, but the scheme has no such parameter");
    return;
  }
  check_parameter(*parameter, q.scheme.blocking, where);
  const int64_t blocks = block_count(q.scheme.blocking, q.N, q.K);
  check_count(values.values, parameter->type, blocks, where);
  check_significant_bits(q, *parameter, values.values, where);
  if (!has_second) return;
  const SecondLevel& second = *parameter->second;
  check_count(values.second, second.type, second_count(second, blocks, q.N),
              where + ": second level");
}

void check_finite(const QuantizedLinear& q, std::span<const float> values,
                  const std::string& where) {
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
  if (bad == values.end()) return;
  throw Error(
      where,
      std::string(std::isnan(*bad) ? "NaN" : "infinity") + " at " + place(q, bad - values.begin()),
      "is the file damaged?");
}

void check_codes(const QuantizedLinear& q, const std::string& where) {
  const Shape expected = {q.N, q.K};
  if (q.codes.dtype() != Dtype::kU8 || q.codes.shape() != expected || q.codes.empty()) {
    throw Error(where, "found " + std::string(dtype_name(q.codes.dtype())) + " " +
                           to_string(q.codes.shape()) + ", expected U8 " + to_string(expected));
  }
  const auto codes = q.codes.values<uint8_t>();
  const Grid& grid = q.scheme.grid;
  const auto usable = [&grid](uint8_t code) {
    if (code >= 1 << grid.bits) return false;
    return grid.kind != Grid::Kind::kTable || std::isfinite(grid.table[code]);
  };
  uint8_t largest = 0;
  for (const uint8_t code : codes) largest = std::max(largest, code);
  if (usable(largest) && std::all_of(grid.table.begin(), grid.table.end(),
                                     [](float level) { return std::isfinite(level); })) {
    return;
  }
  const auto bad = std::find_if_not(codes.begin(), codes.end(), usable);
  if (bad == codes.end()) return;
  const int64_t at = bad - codes.begin();
  throw Error(where, "code " + std::to_string(*bad) + " at row " + text(at / q.K) + ", column " +
                         text(at % q.K) + " is no level of " +
                         (grid.name.empty() ? text(grid.bits) + "-bit codes" : grid.name));
}

void check_codebooks(const QuantizedLinear& q, const std::string& where) {
  if (q.scheme.grid.kind != Grid::Kind::kCodebook) {
    if (!q.codebooks.empty()) throw Error(where, "codebooks, but the grid has none");
    return;
  }
  check_blocking(q.scheme.codebook_blocking, where);
  const int64_t entries = int64_t{1} << q.scheme.grid.bits;
  const Shape expected = {block_count(q.scheme.codebook_blocking, q.N, q.K), entries};
  const Dtype type = q.codebooks.dtype();
  if (!is_float(type) || q.codebooks.shape() != expected) {
    throw Error(where, "found " + std::string(dtype_name(type)) + " " +
                           to_string(q.codebooks.shape()) + ", expected a float type " +
                           to_string(expected));
  }
  std::vector<float> values(static_cast<size_t>(q.codebooks.elements()));
  to_float(q.codebooks.view(), values);
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    throw Error(where, "value " + std::to_string(values[i]) + " in codebook " +
                           text(static_cast<int64_t>(i) / entries));
  }
}

void check_activation_scheme(const ActivationScheme& scheme, const std::string& where) {
  const bool is_e2m1 = scheme.is_float && scheme.bits == 4;
  if (scheme.bits < 2 || scheme.bits > 8 || (scheme.is_float && scheme.bits != 8 && !is_e2m1)) {
    throw Error(where, text(scheme.bits) + (scheme.is_float ? "-bit floats" : "-bit integers"),
                "expected integers of 2 to 8 bits or floats of 4 or 8");
  }
  if (!scheme.dynamic && scheme.per_token && !is_e2m1) {
    throw Error(where, "stored scales per token: tokens are known only at run time");
  }
  if (scheme.is_float && !scheme.symmetric) throw Error(where, "float levels with a zero point");
  const int64_t expected = !is_e2m1 ? scheme.columns : scheme.dynamic ? kMxfp4Group : kNvfp4Group;
  const bool has_groups = scheme.columns != kAll;
  if (scheme.columns != expected || (has_groups && !(scheme.is_float && scheme.per_token)) ||
      (has_groups && scheme.columns < 1)) {
    throw Error(where, describe(scheme),
                "floats by token have scales of 128 columns, or of 32 (MXFP4) or 16 (NVFP4)");
  }
}

void check_activations(const QuantizedLinear& q, const std::string& where) {
  const auto& scheme = q.scheme.activations;
  if (scheme) check_activation_scheme(*scheme, where + ": activations");
  const bool scale = scheme && !scheme->dynamic;
  const bool zero = scale && !scheme->symmetric;
  if (!scale && !q.input_scale.empty()) {
    throw Error(where + ": input_scale", "a stored scale, but activations are not static");
  }
  if (!zero && !q.input_zero.empty()) {
    throw Error(where + ": input_zero", "a stored zero point, but activations have none");
  }
  if (zero) check_count(q.input_zero, Dtype::kI8, 1, where + ": input_zero");
  if (!scale) return;
  if (!is_float(q.input_scale.dtype())) {
    throw Error(where + ": input_scale",
                "type " + std::string(dtype_name(q.input_scale.dtype())) + " is not a float type");
  }
  check_count(q.input_scale, q.input_scale.dtype(), 1, where + ": input_scale");
  float value = 0.f;
  to_float(q.input_scale.view(), {&value, 1});
  if (!std::isfinite(value) || value <= 0.f) {
    throw Error(where + ": input_scale",
                "found " + std::to_string(value) + ", expected a positive number");
  }
}

}  // namespace

void check(const QuantizedLinear& q, const std::string& where) {
  if (q.N < 1 || q.K < 1) {
    throw Error(where, "a matrix of " + text(q.N) + " x " + text(q.K) + " weights");
  }
  check_grid(q.scheme.grid, where + ": grid");
  check_blocking(q.scheme.blocking, where);
  check_codes(q, where + ": codes");
  check_codebooks(q, where + ": codebooks");
  check_column_groups(q.group_of_column, q.scheme.blocking, q.K, where);
  check_values(q, q.scheme.scale, q.scale, where + ": scales");
  check_values(q, q.scheme.zero, q.zero, where + ": zero points");
  check_values(q, q.scheme.minimum, q.minimum, where + ": minimums");
  const FloatParameters parameters = float_parameters(q);
  check_finite(q, parameters.scale, where + ": scales");
  check_finite(q, parameters.zero, where + ": zero points");
  check_finite(q, parameters.minimum, where + ": minimums");
  check_activations(q, where);
}

}  // namespace nibble
