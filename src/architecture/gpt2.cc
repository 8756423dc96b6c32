// GPT-2 (Radford and others, 2019): LayerNorm, learned positions, q, k and v in one layer, weights
// stored [K, N] (Conv1D).
#include <array>
#include <string_view>

#include "src/architecture/architecture.h"
#include "src/architecture/rows.h"

namespace nibble {
namespace {

constexpr std::array kStackedRoles = {Role::kQuery, Role::kKey, Role::kValue};
constexpr std::array<LinearRow, 4> kGpt2Linears = {{
    {"attn.c_attn", kStackedRoles, InputGroup::kAttention, Bias::kAlways},
    {"attn.c_proj", kAttentionOutputRole, InputGroup::kAttentionOutput, Bias::kAlways},
    {"mlp.c_fc", kUpRole, InputGroup::kMlp, Bias::kAlways},
    {"mlp.c_proj", kDownRole, InputGroup::kMlpDown, Bias::kAlways},
}};

// The causal mask and its fill value.
constexpr std::array<std::string_view, 2> kBuffers = {"attn.bias", "attn.masked_bias"};

}  // namespace

Architecture gpt2() {
  return {
      .model_type = "gpt2",
      .name = "GPT2LMHeadModel",
      .models = "GPT-2, DistilGPT-2",
      .prefix = "transformer.",
      .embedding = "wte",
      .position_embedding = "wpe",
      .block = "h.",
      .attention_norm = "ln_1",
      .mlp_norm = "ln_2",
      .query_norm = "",
      .key_norm = "",
      .final_norm = "ln_f",
      .head = "lm_head",
      .linears = kGpt2Linears,
      .norm = Norm::kLayer,
      .activation = Activation::kGeluTanh,
      .positions = Positions::kLearned,
      .transposed = true,
      .always_tied = true,
      .keys =
          {
              .hidden_size = "n_embd",
              .intermediate_size = "n_inner",
              .layers = "n_layer",
              .heads = "n_head",
              .context = "n_positions",
              .norm_epsilon = "layer_norm_epsilon",
              .activation = "activation_function",
          },
      .ignored_tensors = kBuffers,
  };
}

}  // namespace nibble
