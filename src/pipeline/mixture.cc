#include "src/pipeline/mixture.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "src/architecture/architecture.h"
#include "src/model/config.h"

namespace nibble {
namespace {

using enum MixtureBlocks;

constexpr std::array kQ2K = {
    MixtureRule{Role::kValue, kEvery, "q4_k", 4},
    MixtureRule{Role::kValue, kEvery, "q3_k"},
    MixtureRule{Role::kDown, kEvery, "q3_k"},
    MixtureRule{Role::kAttentionOutput, kEvery, "q3_k"},
};
constexpr std::array kQ3KM = {
    MixtureRule{Role::kValue, kFirstTwo, "q5_k"},        MixtureRule{Role::kValue, kEvery, "q4_k"},
    MixtureRule{Role::kDown, kFirstSixteenth, "q5_k"},   MixtureRule{Role::kDown, kEvery, "q4_k"},
    MixtureRule{Role::kAttentionOutput, kEvery, "q4_k"},
};
constexpr std::array kQ3KL = {
    MixtureRule{Role::kValue, kEvery, "q5_k"},
    MixtureRule{Role::kDown, kEvery, "q5_k"},
    MixtureRule{Role::kAttentionOutput, kEvery, "q5_k"},
};
constexpr std::array kQ4KS = {
    MixtureRule{Role::kValue, kFirstFour, "q5_k"},
    MixtureRule{Role::kDown, kFirstEighth, "q5_k"},
};
// Of Q4_K_M and Q5_K_M.
constexpr std::array kMedium = {
    MixtureRule{Role::kValue, kEndsAndThirds, "q6_k"},
    MixtureRule{Role::kDown, kEndsAndThirds, "q6_k"},
};

constexpr std::array kMixtures = {
    Mixture{"q2_k_m", "q2_k", kQ2K},  Mixture{"q3_k_s", "q3_k", {}},
    Mixture{"q3_k_m", "q3_k", kQ3KM}, Mixture{"q3_k_l", "q3_k", kQ3KL},
    Mixture{"q4_k_s", "q4_k", kQ4KS}, Mixture{"q4_k_m", "q4_k", kMedium},
    Mixture{"q5_k_s", "q5_k", {}},    Mixture{"q5_k_m", "q5_k", kMedium},
};

struct Substitute {
  std::string_view type;
  std::string_view instead;
};
constexpr std::array kSubstitutes = {
    Substitute{"q2_k", "q4_0"}, Substitute{"q3_k", "q4_0"}, Substitute{"q4_k", "q5_0"},
    Substitute{"q5_k", "q5_1"}, Substitute{"q6_k", "q8_0"}, Substitute{"iq4_xs", "iq4_nl"},
};

bool holds(MixtureBlocks blocks, int64_t i, int64_t n) {
  switch (blocks) {
    case kFirstTwo:
      return i < 2;
    case kFirstFour:
      return i < 4;
    case kFirstSixteenth:
      return i < n / 16;
    case kFirstEighth:
      return i < n / 8;
    case kEndsAndThirds:
      return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
    case kEvery:
      break;
  }
  return true;
}

// With 80 blocks and several query heads a key head (the 70B models): values are few there.
bool has_few_values(const Config& config) {
  return config.layers == 80 && config.heads > config.key_value_heads;
}

}  // namespace

const Mixture* mixture(std::string_view name) {
  const auto* row = std::ranges::find(kMixtures, name, &Mixture::name);
  return row == kMixtures.end() ? nullptr : row;
}

std::string_view mixture_type(const Mixture& mixture, const Config& config,
                              std::span<const Role> roles, int64_t block) {
  const auto computes = [&](Role role) { return std::ranges::find(roles, role) != roles.end(); };
  if (computes(Role::kOutputHead)) return "q6_k";
  std::string_view type = mixture.type;
  for (const MixtureRule& rule : mixture.rules) {
    if (!computes(rule.role) || !holds(rule.blocks, block, config.layers)) continue;
    if (config.heads / config.key_value_heads < rule.query_heads) continue;
    type = rule.type;
    break;
  }
  const bool small = type == "q3_k" || type == "q4_k";
  return computes(Role::kValue) && has_few_values(config) && small ? "q5_k" : type;
}

std::string_view substitute_type(std::string_view type) {
  const auto* row = std::ranges::find(kSubstitutes, type, &Substitute::type);
  return row == kSubstitutes.end() ? std::string_view{} : row->instead;
}

}  // namespace nibble
