#include "src/quantized/scheme.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

int64_t blocks_along(int64_t length, int64_t block) {
  return block == kAll ? 1 : (length + block - 1) / block;
}

// Bits of one parameter's values, second level included, for a whole matrix.
double parameter_bits(const Parameter& parameter, int64_t blocks, int64_t N) {
  double bits = static_cast<double>(blocks) * parameter.bits;
  if (parameter.second) {
    bits += static_cast<double>(second_count(*parameter.second, blocks, N)) *
            dtype_bits(parameter.second->type);
    if (parameter.second->has_offset) bits += 32;
  }
  return bits;
}

std::string describe_levels(const Grid& grid) {
  switch (grid.kind) {
    case Grid::Kind::kInteger:
      return "int" + std::to_string(grid.bits);
    case Grid::Kind::kTable:
      return grid.name;
    case Grid::Kind::kCodebook:
      break;
  }
  return std::to_string(grid.bits) + "-bit codebook";
}

std::string describe_blocks(const Blocking& blocking) {
  const std::string columns = std::to_string(blocking.columns);
  if (blocking.flattened) return "block " + columns;
  if (blocking.rows == 1) return blocking.columns == kAll ? "per channel" : "g" + columns;
  if (blocking.rows == kAll) {
    return blocking.columns == kAll ? "per tensor" : "per " + columns + " columns";
  }
  const std::string width = blocking.columns == kAll ? "all" : columns;
  return "block " + std::to_string(blocking.rows) + "x" + width;
}

std::string describe_second_level(const Scheme& scheme) {
  for (const auto* parameter : {&scheme.scale, &scheme.zero, &scheme.minimum}) {
    if (!*parameter || !(*parameter)->second) continue;
    const int64_t block = (*parameter)->second->block;
    if (block == kAll && scheme.blocking.columns == kAll) continue;  // a factor of all scales
    return block == kOneRow ? ", two-level" : ", double-quantized";
  }
  return {};
}

}  // namespace

Parameter stored_as(Dtype type, int bits) { return {.type = type, .bits = bits}; }

bool Grid::operator==(const Grid& other) const {
  const auto same = [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  return kind == other.kind && bits == other.bits && lowest == other.lowest && name == other.name &&
         std::ranges::equal(table, other.table, same);
}

Scheme integer_scheme(int bits, int64_t group_size, bool symmetric, Dtype scale_type,
                      bool per_tensor) {
  if (bits < 1 || bits > 8) {
    throw Error("", "integer codes of " + std::to_string(bits) + " bits", "expected 1 to 8");
  }
  if (group_size != kAll && (group_size < 1 || per_tensor)) {
    throw Error("",
                "group size " + std::to_string(group_size) +
                    (per_tensor ? " with one scale for the tensor" : ""),
                "expected a positive number of columns, or whole rows");
  }
  if (!is_float(scale_type)) {
    throw Error("", "scales of type " + std::string(dtype_name(scale_type)),
                "expected a float type");
  }
  Scheme scheme;
  scheme.grid.bits = bits;
  scheme.grid.lowest = symmetric ? -(1 << (bits - 1)) : 0;
  scheme.blocking = {.rows = per_tensor ? kAll : 1, .columns = group_size};
  scheme.scale = stored_as(scale_type, dtype_bits(scale_type));
  if (!symmetric) scheme.zero = stored_as(Dtype::kU8, bits);
  return scheme;
}

int64_t group_count(const Blocking& blocking, int64_t K) {
  return blocks_along(K, blocking.columns);
}

int64_t block_count(const Blocking& blocking, int64_t N, int64_t K) {
  if (blocking.flattened) return blocks_along(N * K, blocking.columns);
  return blocks_along(N, blocking.rows) * group_count(blocking, K);
}

int64_t second_count(const SecondLevel& second, int64_t blocks, int64_t N) {
  return second.block == kOneRow ? N : blocks_along(blocks, second.block);
}

double bits_per_weight(const Scheme& scheme, int64_t N, int64_t K, bool has_column_groups,
                       Dtype codebook_type) {
  const double weights = static_cast<double>(N) * static_cast<double>(K);
  double bits = weights * scheme.grid.bits;
  for (const auto* parameter : {&scheme.scale, &scheme.zero, &scheme.minimum}) {
    if (*parameter) bits += parameter_bits(**parameter, block_count(scheme.blocking, N, K), N);
  }
  if (scheme.grid.kind == Grid::Kind::kCodebook) {
    const auto entries = block_count(scheme.codebook_blocking, N, K) << scheme.grid.bits;
    bits += static_cast<double>(entries) * dtype_bits(codebook_type);
  }
  if (has_column_groups) bits += 32. * static_cast<double>(K);
  return bits / weights;
}

std::string describe(const ActivationScheme& activations) {
  const std::string columns =
      activations.columns == kAll ? "" : " g" + std::to_string(activations.columns);
  return (activations.is_float ? "fp" : "int") + std::to_string(activations.bits) +
         (activations.dynamic ? " dynamic" : " static") +
         (activations.per_token ? " per token" : " per tensor") + columns +
         (activations.symmetric ? "" : " asymmetric") + " activations";
}

std::string describe(const Scheme& scheme) {
  const Grid& grid = scheme.grid;
  std::string text = describe_levels(grid);
  if (grid.kind == Grid::Kind::kCodebook) {
    const bool per_row = scheme.codebook_blocking == Blocking{};
    text.append(" ").append(per_row ? "per row" : describe_blocks(scheme.codebook_blocking));
  }
  if (scheme.scale || scheme.zero || scheme.minimum) {
    text.append(" ").append(describe_blocks(scheme.blocking));
  }
  if (grid.kind == Grid::Kind::kInteger) {
    text.append(scheme.symmetric() ? " symmetric" : " asymmetric");
  }
  text.append(describe_second_level(scheme));
  if (scheme.activations) text.append(", ").append(describe(*scheme.activations));
  return text;
}

}  // namespace nibble
