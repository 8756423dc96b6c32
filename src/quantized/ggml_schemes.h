// The quantized types of GGUF as schemes, under llama.cpp's names in lower case. Layouts of their
// bytes: formats/packing/gguf.h; the scale searches: src/quantized/ggml_fit.h.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "src/quantized/scheme.h"

namespace nibble {

inline constexpr int64_t kSuperBlock = 256;  // weights that share the second level of the K types

struct GgmlScheme {
  std::string_view name;
  int64_t block = 32;  // weights of a row that are stored together: K must be a multiple
  Scheme scheme = {};
};

// From q8_0 down. A minimum is stored negated where the type subtracts it (q2_k, q4_k, q5_k).
std::span<const GgmlScheme> ggml_schemes();
// Null if there is none of that name, or with that scheme.
const GgmlScheme* ggml_scheme(std::string_view name);
const GgmlScheme* ggml_scheme(const Scheme& scheme);

}  // namespace nibble
