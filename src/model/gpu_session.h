// A sequence on a GPU: DeviceSession on GpuDevice, with the activations' type chosen.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "src/model/model.h"

namespace nibble {

// The next tokens of a sequence -> logits [vocabulary_size] after the last of them.
using AppendTokens = std::function<std::vector<float>(std::span<const int32_t>)>;

// context: of all tokens to come. max_vram, the activations' type and errors: as gpu_scores().
AppendTokens gpu_session(std::shared_ptr<const Model> model, int64_t context, int64_t max_vram);

}  // namespace nibble
