#include "src/pipeline/layer_scheme.h"

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/quantized/codebooks.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/llm_int8.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

constexpr int kDefaultBits = 4;
constexpr int64_t kDefaultGroup = 128;
constexpr int64_t kLargestGroup = int64_t{1} << 31;  // as config.json's sizes
constexpr int64_t kDefaultTableBlock = 64;

int64_t checked_group(int64_t group_size) {
  if (group_size == -1) return kAll;
  if (group_size >= 1 && group_size <= kLargestGroup) return group_size;
  throw Error("group size", std::to_string(group_size) + " is none",
              "a number of columns, or -1 for the whole row");
}

void refuse_double_quant(const SchemeChoice& choice, const std::string& scheme) {
  if (!choice.double_quant.value_or(false)) return;
  throw Error("double quantization", "scheme " + scheme + " has none");
}

// "w4a16" -> 4; 0 for other names.
int weight_only_bits(std::string_view name) {
  const bool matches = name.size() == 5 && name[0] == 'w' && name.substr(2) == "a16";
  return matches ? name[1] - '0' : 0;
}

std::string weight_only_name(int bits) { return "w" + std::to_string(bits) + "a16"; }

Scheme make_integers(const SchemeChoice& choice, Dtype scale_type) {
  Scheme scheme = integer_scheme(weight_only_bits(choice.name),
                                 checked_group(choice.group_size.value_or(kDefaultGroup)),
                                 choice.symmetric.value_or(false), scale_type);
  return choice.double_quant.value_or(false) ? double_quantized(std::move(scheme)) : scheme;
}

// 32 .. 4096: what bitsandbytes reads.
int64_t checked_table_block(const SchemeChoice& choice) {
  const int64_t block = choice.group_size.value_or(kDefaultTableBlock);
  const bool is_power = block >= 32 && block <= 4096 && (block & (block - 1)) == 0;
  if (is_power && choice.bits.value_or(4) == 4 && !choice.symmetric) return block;
  throw Error("scheme", choice.name + " has 4 bits in blocks of 32, 64, .. 4096 weights",
              "leave out bits and symmetry; -g sets the block (default: 64)");
}

Scheme make_nf4(const SchemeChoice& choice, Dtype /*scale_type*/) {
  return nf4_scheme(checked_table_block(choice), choice.double_quant.value_or(false));
}

Scheme make_kmeans(const SchemeChoice& choice, Dtype /*scale_type*/) {
  refuse_double_quant(choice, choice.name);
  if (choice.symmetric) {
    throw Error("scheme", "codebooks are neither symmetric nor asymmetric", "leave it out");
  }
  return kmeans_scheme(choice.bits.value_or(kDefaultBits),
                       checked_group(choice.group_size.value_or(-1)));
}

Scheme make_fp4(const SchemeChoice& choice, Dtype /*scale_type*/) {
  return fp4_scheme(checked_table_block(choice), choice.double_quant.value_or(false));
}

Scheme make_w8a8(const SchemeChoice& choice, Dtype scale_type, bool dynamic) {
  refuse_double_quant(choice, choice.name);
  const bool groups = choice.group_size && *choice.group_size != -1;
  if (groups || choice.bits.value_or(8) != 8 || !choice.symmetric.value_or(true)) {
    throw Error("scheme", choice.name + " has symmetric weights of 8 bits by channel",
                "leave out bits, group size and symmetry");
  }
  Scheme scheme = integer_scheme(8, kAll, true, scale_type);
  scheme.activations = {.bits = 8, .symmetric = true, .dynamic = dynamic, .per_token = dynamic};
  return scheme;
}

Scheme make_dynamic_w8a8(const SchemeChoice& choice, Dtype scale_type) {
  return make_w8a8(choice, scale_type, true);
}

Scheme make_static_w8a8(const SchemeChoice& choice, Dtype scale_type) {
  return make_w8a8(choice, scale_type, false);
}

// Scales have types of their own.
Scheme make_w4a8(const SchemeChoice& choice, Dtype /*scale_type*/) {
  refuse_double_quant(choice, choice.name);
  if (choice.bits.value_or(4) != 4 || choice.symmetric.value_or(false)) {
    throw Error("scheme", choice.name + " has asymmetric weights of 4 bits in groups",
                "leave out bits and symmetry; -g sets the group (default: 128)");
  }
  Scheme scheme = progressive_scheme(checked_group(choice.group_size.value_or(kDefaultGroup)));
  scheme.activations = ActivationScheme{};
  return scheme;
}

// Scales in F32.
Scheme make_llm_int8(const SchemeChoice& choice, Dtype /*scale_type*/) {
  refuse_double_quant(choice, choice.name);
  const bool groups = choice.group_size && *choice.group_size != -1;
  if (groups || choice.bits.value_or(8) != 8 || !choice.symmetric.value_or(true)) {
    throw Error("scheme", choice.name + " has symmetric weights of 8 bits by channel",
                "leave out bits, group size and symmetry");
  }
  return llm_int8_scheme();
}

// Everything about a scheme of floats is fixed.
void check_bare(const SchemeChoice& choice) {
  refuse_double_quant(choice, choice.name);
  if (choice.bits || choice.group_size || choice.symmetric) {
    throw Error("scheme", choice.name + " has its own bits, groups and symmetry", "leave them out");
  }
}

// The plan asks for the types of its layers.
Scheme make_mixture(const SchemeChoice& choice, Dtype /*scale_type*/) {
  throw Error("scheme",
              choice.name + " is a mixture of llama.cpp's types, not the type of a layer");
}

Scheme make_dynamic_fp8(const SchemeChoice& choice, Dtype scale_type) {
  check_bare(choice);
  Scheme scheme = fp8_scheme({}, scale_type);
  scheme.activations = {.is_float = true};
  return scheme;
}

Scheme make_static_fp8(const SchemeChoice& choice, Dtype scale_type) {
  check_bare(choice);
  Scheme scheme = fp8_scheme({.rows = kAll, .columns = kAll}, scale_type);
  scheme.activations = {.dynamic = false, .per_token = false, .is_float = true};
  return scheme;
}

Scheme make_block_fp8(const SchemeChoice& choice, Dtype scale_type) {
  check_bare(choice);
  Scheme scheme = fp8_scheme({.rows = kFp8Block, .columns = kFp8Block}, scale_type);
  scheme.activations = {.is_float = true, .columns = kFp8Block};
  return scheme;
}

Scheme make_nvfp4a16(const SchemeChoice& choice, Dtype /*scale_type*/) {
  check_bare(choice);
  return nvfp4_scheme(true);
}

Scheme make_nvfp4(const SchemeChoice& choice, Dtype /*scale_type*/) {
  check_bare(choice);
  Scheme scheme = nvfp4_scheme(true);
  scheme.activations = {
      .bits = 4, .dynamic = false, .is_float = true, .columns = kNvfp4Group, .divides = true};
  return scheme;
}

Scheme make_mxfp4a16(const SchemeChoice& choice, Dtype /*scale_type*/) {
  check_bare(choice);
  return mxfp4_scheme();
}

// llama.cpp's types: everything about them is fixed.
Scheme make_ggml(const SchemeChoice& choice, Dtype /*scale_type*/) {
  check_bare(choice);
  return ggml_scheme(choice.name)->scheme;
}

constexpr std::array<NamedScheme, 41> kSchemes = {{
    {"w2a16", "integers of 2 bits in groups", "gptq", make_integers},
    {"w3a16", "integers of 3 bits in groups", "gptq", make_integers},
    {"w4a16", "integers of 4 bits in groups", "compressed-tensors", make_integers},
    {"w5a16", "integers of 5 bits in groups", "nibble", make_integers},
    {"w6a16", "integers of 6 bits in groups", "nibble", make_integers},
    {"w7a16", "integers of 7 bits in groups", "nibble", make_integers},
    {"w8a16", "integers of 8 bits in groups", "compressed-tensors", make_integers},
    {"w8a8", "weights by channel and activations by token, as they come, integers of 8 bits",
     "compressed-tensors", make_dynamic_w8a8},
    {"w8a8-static", "the same, with one activation scale a layer from calibration",
     "compressed-tensors", make_static_w8a8},
    {"w4a8", "progressive groups: 4 bits within 8 by channel, activations as w8a8", "nibble",
     make_w4a8},
    {"nf4", "4 bits, levels of a normal distribution, blocks of 64", "bitsandbytes", make_nf4},
    {"fp4", "4 bits, bitsandbytes' floating point, blocks of 64", "bitsandbytes", make_fp4},
    {"llm-int8", "8 bits by channel as bitsandbytes' load_in_8bit, activations as they are",
     "bitsandbytes", make_llm_int8},
    {"fp8-dynamic", "FP8 (E4M3) weights by channel, activations by token, as they come",
     "compressed-tensors", make_dynamic_fp8},
    {"fp8", "FP8 by tensor, with one activation scale a layer from calibration",
     "compressed-tensors", make_static_fp8},
    {"fp8-block", "FP8 in blocks of 128 x 128, activations by 128 of a token, as they come", "fp8",
     make_block_fp8},
    {"nvfp4a16", "NVFP4 weights: E2M1, FP8 scales for 16 and one of the tensor",
     "compressed-tensors", make_nvfp4a16},
    {"nvfp4", "the same, activations too, with a scale a layer from calibration",
     "compressed-tensors", make_nvfp4},
    {"mxfp4a16", "MXFP4 weights by llm-compressor's rule", "compressed-tensors", make_mxfp4a16},
    {"kmeans", "codebooks of 2^bits levels, one a row or group", "nibble", make_kmeans},
    {"q8_0", "llama.cpp: 8 bits, a scale for 32 weights", "gguf", make_ggml},
    {"q6_k", "llama.cpp: 6 bits, 8-bit scales for 16 weights", "gguf", make_ggml},
    {"q5_1", "llama.cpp: 5 bits, scale and minimum for 32 weights", "gguf", make_ggml},
    {"q5_k", "llama.cpp: 5 bits, 6-bit scales and minimums for 32", "gguf", make_ggml},
    {"q5_0", "llama.cpp: 5 bits, a scale for 32 weights", "gguf", make_ggml},
    {"q4_1", "llama.cpp: 4 bits, scale and minimum for 32 weights", "gguf", make_ggml},
    {"q4_k", "llama.cpp: 4 bits, 6-bit scales and minimums for 32", "gguf", make_ggml},
    {"q4_0", "llama.cpp: 4 bits, a scale for 32 weights", "gguf", make_ggml},
    {"iq4_nl", "llama.cpp: 16 uneven levels, a scale for 32 weights", "gguf", make_ggml},
    {"iq4_xs", "llama.cpp: the same levels, 6-bit scales for 32", "gguf", make_ggml},
    {"mxfp4", "OCP: E2M1, a power of two for 32 weights", "gguf", make_ggml},
    {"q3_k", "llama.cpp: 3 bits, 6-bit scales for 16 weights", "gguf", make_ggml},
    {"q2_k", "llama.cpp: 2 bits, 4-bit scales and minimums for 16", "gguf", make_ggml},
    {"q5_k_m", "llama.cpp's mixture Q5_K_M: q5_k, some values and down projections q6_k", "gguf",
     make_mixture},
    {"q5_k_s", "llama.cpp's mixture Q5_K_S: q5_k", "gguf", make_mixture},
    {"q4_k_m", "llama.cpp's mixture Q4_K_M: q4_k, some values and down projections q6_k", "gguf",
     make_mixture},
    {"q4_k_s", "llama.cpp's mixture Q4_K_S: q4_k, the first values and down projections q5_k",
     "gguf", make_mixture},
    {"q3_k_l", "llama.cpp's mixture Q3_K_L: q3_k, values, down and output projections q5_k", "gguf",
     make_mixture},
    {"q3_k_m", "llama.cpp's mixture Q3_K_M: the same, q4_k and the first q5_k", "gguf",
     make_mixture},
    {"q3_k_s", "llama.cpp's mixture Q3_K_S: q3_k", "gguf", make_mixture},
    {"q2_k_m", "llama.cpp's mixture Q2_K: q2_k, values, down and output projections q3_k", "gguf",
     make_mixture},
}};

}  // namespace

SchemeChoice SchemeChoice::over(const SchemeChoice& rest) const {
  const auto first = [](const auto& a, const auto& b) { return a ? a : b; };
  SchemeChoice both = *this;
  if (both.name.empty()) {
    const bool weight_only = rest.name.empty() || weight_only_bits(rest.name) != 0;
    both.name = bits && weight_only ? weight_only_name(*bits) : rest.name;
  }
  const bool same_kind = both.name == rest.name || rest.name.empty() ||
                         (weight_only_bits(both.name) != 0 && weight_only_bits(rest.name) != 0);
  if (!same_kind) return both;
  both.bits = both.name == rest.name ? first(bits, rest.bits) : bits;
  both.group_size = first(group_size, rest.group_size);
  both.symmetric = first(symmetric, rest.symmetric);
  both.double_quant = first(double_quant, rest.double_quant);
  return both;
}

std::span<const NamedScheme> named_schemes() { return kSchemes; }

const NamedScheme& named_scheme(const SchemeChoice& choice) {
  const std::string name =
      choice.name.empty() ? weight_only_name(choice.bits.value_or(kDefaultBits)) : choice.name;
  std::vector<std::string> known;
  for (const NamedScheme& row : kSchemes) {
    if (row.name == name) return row;
    known.emplace_back(row.name);
  }
  const std::string nearest = nearest_name(name, known);
  throw Error("scheme", "unknown scheme '" + name + "'",
              nearest.empty() ? "see 'nibble list schemes'" : "did you mean '" + nearest + "'?");
}

Scheme make_scheme(const SchemeChoice& choice, Dtype scale_type) {
  const NamedScheme& row = named_scheme(choice);
  SchemeChoice named = choice;
  named.name = row.name;
  const int bits = weight_only_bits(row.name);
  if (bits != 0 && choice.bits.value_or(bits) != bits) {
    throw Error("scheme", std::string(row.name) + " with " + std::to_string(*choice.bits) + " bits",
                "leave out one of the two");
  }
  return row.make(named, scale_type);
}

}  // namespace nibble
