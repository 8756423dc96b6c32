#include "src/pipeline/block_inputs.h"

#include <cstdint>
#include <string>
#include <string_view>

#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/tensor/matrix.h"

namespace nibble {

std::string_view input_group_name(InputGroup group) {
  switch (group) {
    case InputGroup::kAttention:
      return "attention";
    case InputGroup::kAttentionOutput:
      return "attention_output";
    case InputGroup::kMlp:
      return "mlp";
    case InputGroup::kMlpDown:
      return "mlp_down";
    case InputGroup::kOutputHead:
      break;
  }
  return "output_head";
}

int64_t input_width(const Config& config, InputGroup group) {
  switch (group) {
    case InputGroup::kAttentionOutput:
      return config.heads * config.head_size;
    case InputGroup::kMlpDown:
      return config.intermediate_size;
    default:
      return config.hidden_size;
  }
}

void BlockRescaling::apply_to(const std::string& module, Matrix& W) const {
  if (const auto found = columns.find(module); found != columns.end()) {
    W = W * found->second.asDiagonal();
  }
  if (const auto found = rows.find(module); found != rows.end()) {
    W = found->second.asDiagonal() * W;
  }
}

}  // namespace nibble
