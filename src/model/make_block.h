// What the weights of a block have in common, whatever form its linear layers are loaded in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "formats/checkpoint.h"
#include "src/architecture/architecture.h"
#include "src/model/layout.h"
#include "src/model/model.h"

namespace nibble {

// Block: four norms (NormWeights), lists `attention` and `mlp`, and `attention_output` and `down`
// of what load(module) returns. Throws as load_norm and load.
template <typename Block, typename Load>
Block make_block(const Checkpoint& checkpoint, const ModelLayout& layout, int64_t index,
                 const Load& load) {
  Block block;
  const ModelLayout::BlockNorms& norms = layout.norms.at(static_cast<size_t>(index));
  block.attention_norm = load_norm(checkpoint, layout, norms.attention);
  block.mlp_norm = load_norm(checkpoint, layout, norms.mlp);
  block.query_norm = load_norm(checkpoint, layout, norms.query);
  block.key_norm = load_norm(checkpoint, layout, norms.key);
  for (const LinearModule& module : layout.linears) {
    if (module.block != index) continue;
    auto linear = load(module);
    switch (module.input) {
      case InputGroup::kAttention:
        block.attention.push_back(std::move(linear));
        break;
      case InputGroup::kAttentionOutput:
        block.attention_output = std::move(linear);
        break;
      case InputGroup::kMlp:
        block.mlp.push_back(std::move(linear));
        break;
      case InputGroup::kMlpDown:
        block.down = std::move(linear);
        break;
      case InputGroup::kOutputHead:
        break;
    }
  }
  return block;
}

}  // namespace nibble
