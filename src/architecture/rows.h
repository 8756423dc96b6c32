// The rows of the architecture table, one family a file. Private to this folder: others use
// architectures().
#pragma once

#include <array>

#include "src/architecture/architecture.h"

namespace nibble {

inline constexpr std::array kQueryRole = {Role::kQuery};
inline constexpr std::array kKeyRole = {Role::kKey};
inline constexpr std::array kValueRole = {Role::kValue};
inline constexpr std::array kAttentionOutputRole = {Role::kAttentionOutput};
inline constexpr std::array kGateRole = {Role::kGate};
inline constexpr std::array kUpRole = {Role::kUp};
inline constexpr std::array kDownRole = {Role::kDown};

// The linear layers of a Llama-like block. The rules differ in where biases are.
constexpr std::array<LinearRow, 7> llama_linears(Bias query_key_value, Bias output, Bias mlp) {
  return {{
      {"self_attn.q_proj", kQueryRole, InputGroup::kAttention, query_key_value},
      {"self_attn.k_proj", kKeyRole, InputGroup::kAttention, query_key_value},
      {"self_attn.v_proj", kValueRole, InputGroup::kAttention, query_key_value},
      {"self_attn.o_proj", kAttentionOutputRole, InputGroup::kAttentionOutput, output},
      {"mlp.gate_proj", kGateRole, InputGroup::kMlp, mlp},
      {"mlp.up_proj", kUpRole, InputGroup::kMlp, mlp},
      {"mlp.down_proj", kDownRole, InputGroup::kMlpDown, mlp},
  }};
}

inline constexpr ConfigKeys kLlamaKeys = {
    .hidden_size = "hidden_size",
    .intermediate_size = "intermediate_size",
    .layers = "num_hidden_layers",
    .heads = "num_attention_heads",
    .context = "max_position_embeddings",
    .norm_epsilon = "rms_norm_eps",
    .activation = "hidden_act",
};

// Written into checkpoints by transformers before 4.32.
inline constexpr std::array<std::string_view, 1> kLlamaBuffers = {"rotary_emb.inv_freq"};

Architecture llama();
Architecture mistral();
Architecture qwen2();
Architecture qwen3();
Architecture gpt2();

}  // namespace nibble
