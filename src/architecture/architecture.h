// Architectures: what a family of models is made of, as rows of data. Names of tensors, which
// linear layers a block has and what feeds them, which configuration keys to read, and the flags of
// the forward pass. The forward pass itself is src/model.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace nibble {

// What a row range of a linear layer computes. A stored layer may stack several (GPT-2's c_attn).
enum class Role { kQuery, kKey, kValue, kAttentionOutput, kGate, kUp, kDown, kOutputHead };

// Linear layers with the same input share its statistics, and what can rescale it.
enum class InputGroup { kAttention, kAttentionOutput, kMlp, kMlpDown, kOutputHead };

enum class Norm { kRms, kLayer };
enum class Activation { kSilu, kGeluTanh, kGeluErf };
enum class Positions { kRope, kLearned };
enum class Bias { kNever, kAlways, kAttentionBiasKey, kMlpBiasKey };

// One stored linear layer of a block.
struct LinearRow {
  std::string_view name;        // after the block's prefix: "self_attn.q_proj"
  std::span<const Role> roles;  // row ranges in order
  InputGroup input;
  Bias bias;
};

// Keys of config.json that differ between families.
struct ConfigKeys {
  std::string_view hidden_size, intermediate_size, layers, heads, context, norm_epsilon, activation;
};

struct Architecture {
  std::string_view model_type;  // config.json's
  std::string_view name;        // class name in "architectures"
  std::string_view models;      // known members, for lists
  std::string_view prefix;      // "model.", "transformer."; checkpoints without it are read too
  std::string_view embedding, position_embedding;  // after prefix; empty: none
  std::string_view block;                          // after prefix: "layers."
  std::string_view attention_norm, mlp_norm, query_norm,
      key_norm;                 // after "<block>N."; empty: none
  std::string_view final_norm;  // after prefix
  std::string_view head;        // whole name: "lm_head"
  std::span<const LinearRow> linears;
  Norm norm;
  Activation activation;  // where the configuration names none
  Positions positions;
  bool transposed;   // linear weights are stored [K, N]
  bool always_tied;  // no tie_word_embeddings key means tied
  ConfigKeys keys;
  std::span<const std::string_view> ignored_tensors;  // suffixes of buffers that are no weights
};

// In the order shown to users.
std::span<const Architecture> architectures();
// Throws Error(where, ...) naming the unknown model_type and the nearest known one.
const Architecture& architecture(const std::string& model_type, const std::string& where);

}  // namespace nibble
