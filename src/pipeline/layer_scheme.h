// Schemes by name, and what a user may say of one: from "w4a16" and a group size to a Scheme.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"

namespace nibble {

// What is not set is the default of the scheme.
struct SchemeChoice {
  std::string name;                   // row of named_schemes(); empty: by bits
  std::optional<int> bits;            // 2..8
  std::optional<int64_t> group_size;  // columns (nf4, fp4: weights of a block); -1: the whole row
  std::optional<bool> symmetric;
  std::optional<bool> double_quant;

  // This choice where it says something, `rest` elsewhere. A name brings its own defaults: with
  // one, bits, group size and symmetry of `rest` count only if `rest` has the same name.
  SchemeChoice over(const SchemeChoice& rest) const;
};

struct NamedScheme {
  std::string_view name;
  std::string_view summary;
  std::string_view format;                                       // where the user names none
  Scheme (*make)(const SchemeChoice& choice, Dtype scale_type);  // see make_scheme
};

// In the order shown to users.
std::span<const NamedScheme> named_schemes();
// The row that a choice names, or that of integers with its bits. Throws Error with the nearest
// name.
const NamedScheme& named_scheme(const SchemeChoice& choice);
// scale_type: as the format stores scales. Throws Error for a choice that the scheme does not have.
Scheme make_scheme(const SchemeChoice& choice, Dtype scale_type);

}  // namespace nibble
