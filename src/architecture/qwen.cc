// Qwen2 (2024, arXiv 2407.10671): Llama with biases on q, k and v. Qwen3 (2025, arXiv 2505.09388):
// none, but an RMSNorm over each head of q and k before the rotation.
#include "src/architecture/architecture.h"
#include "src/architecture/rows.h"

namespace nibble {
namespace {

constexpr auto kQwen2Linears = llama_linears(Bias::kAlways, Bias::kNever, Bias::kNever);
constexpr auto kQwen3Linears =
    llama_linears(Bias::kAttentionBiasKey, Bias::kAttentionBiasKey, Bias::kNever);

}  // namespace

Architecture qwen2() {
  Architecture row = llama();
  row.model_type = "qwen2";
  row.name = "Qwen2ForCausalLM";
  row.models = "Qwen2, Qwen2.5";
  row.linears = kQwen2Linears;
  return row;
}

Architecture qwen3() {
  Architecture row = llama();
  row.model_type = "qwen3";
  row.name = "Qwen3ForCausalLM";
  row.models = "Qwen3 (dense)";
  row.query_norm = "self_attn.q_norm";
  row.key_norm = "self_attn.k_norm";
  row.linears = kQwen3Linears;
  return row;
}

}  // namespace nibble
