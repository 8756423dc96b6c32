// Mistral (Jiang and others, 2023, arXiv 2310.06825): Llama without biases, with a sliding window.
#include "src/architecture/architecture.h"
#include "src/architecture/rows.h"

namespace nibble {
namespace {

constexpr auto kMistralLinears = llama_linears(Bias::kNever, Bias::kNever, Bias::kNever);

}  // namespace

Architecture mistral() {
  Architecture row = llama();
  row.model_type = "mistral";
  row.name = "MistralForCausalLM";
  row.models = "Mistral 7B";
  row.linears = kMistralLinears;
  return row;
}

}  // namespace nibble
