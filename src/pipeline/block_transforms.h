// The transforms of a plan on one block: scales found group by group in the order of the forward
// pass, and folded into what feeds each group.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/format.h"
#include "src/pipeline/block_inputs.h"
#include "src/pipeline/plan.h"
#include "src/pipeline/quantize.h"

namespace nibble {

struct TransformedBlock {
  BlockRescaling rescaling;
  std::vector<NamedTensor> rewritten;  // norms and biases as they are to be written
  std::vector<TransformReport> groups;
};

// inputs: entered and not rescaled yet. A group is left alone, and its row says why, where a layer
// of it or the linear layer that feeds it is not quantized, and where an activation function stands
// between.
TransformedBlock transform_block(const Plan& plan, int64_t block, BlockInputs& inputs);

}  // namespace nibble
