// Llama (Touvron and others, 2023, arXiv 2302.13971): RMSNorm, rotary positions, gated SiLU;
// grouped-query attention since Llama 2; rope scaling since 3.1.
#include "src/architecture/architecture.h"
#include "src/architecture/rows.h"

namespace nibble {
namespace {

constexpr auto kLlamaLinears =
    llama_linears(Bias::kAttentionBiasKey, Bias::kAttentionBiasKey, Bias::kMlpBiasKey);

}  // namespace

Architecture llama() {
  return {
      .model_type = "llama",
      .name = "LlamaForCausalLM",
      .models = "Llama 1-3, TinyLlama, SmolLM",
      .prefix = "model.",
      .embedding = "embed_tokens",
      .position_embedding = "",
      .block = "layers.",
      .attention_norm = "input_layernorm",
      .mlp_norm = "post_attention_layernorm",
      .query_norm = "",
      .key_norm = "",
      .final_norm = "norm",
      .head = "lm_head",
      .linears = kLlamaLinears,
      .norm = Norm::kRms,
      .activation = Activation::kSilu,
      .positions = Positions::kRope,
      .transposed = false,
      .always_tied = false,
      .keys = kLlamaKeys,
      .ignored_tensors = kLlamaBuffers,
  };
}

}  // namespace nibble
