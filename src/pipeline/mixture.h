// llama.cpp's mixtures: files whose tensors have types by role and block, as the tables of its
// program say (llama-quant.cpp, llama_tensor_get_type). Each is a scheme by name; the plan gives
// every layer its type.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "src/architecture/architecture.h"
#include "src/model/config.h"

namespace nibble {

// The blocks of a model that a rule is about; i of n, integer division.
enum class MixtureBlocks {
  kEvery,
  kFirstTwo,
  kFirstFour,
  kFirstSixteenth,  // i < n / 16
  kFirstEighth,     // i < n / 8
  kEndsAndThirds,   // i < n / 8, i >= 7 n / 8, and every third between: (i - n / 8) mod 3 = 2
};

struct MixtureRule {
  Role role;  // layers that compute it, perhaps among others
  MixtureBlocks blocks;
  std::string_view type;    // row of ggml_schemes()
  int64_t query_heads = 1;  // a key head, at least
};

struct Mixture {
  std::string_view name;               // of the scheme
  std::string_view type;               // where no rule holds
  std::span<const MixtureRule> rules;  // the first that holds
};

// Null if there is none of that name.
const Mixture* mixture(std::string_view name);

// The type of a layer of block `block`; of the output head, and of an embedding that is it too,
// q6_k; of another embedding (no roles) the mixture's own.
std::string_view mixture_type(const Mixture& mixture, const Config& config,
                              std::span<const Role> roles, int64_t block);

// What llama.cpp takes where rows are no multiple of the 256 weights that a type needs: a row of
// ggml_schemes() with blocks of 32. Empty: there is none.
std::string_view substitute_type(std::string_view type);

}  // namespace nibble
