#include "src/pipeline/block_inputs.h"

namespace nibble {

void BlockRescaling::apply_to(const std::string& module, Matrix& W) const {
  if (const auto found = columns.find(module); found != columns.end()) {
    W = W * found->second.asDiagonal();
  }
  if (const auto found = rows.find(module); found != rows.end()) {
    W = found->second.asDiagonal() * W;
  }
}

}  // namespace nibble
