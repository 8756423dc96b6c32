// Scores of tokens on a GPU: DeviceScores on GpuDevice, with the activations' type chosen.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/divergence.h"
#include "src/model/model.h"

namespace nibble {

// (ids [T], batch, targets [T]) -> what DeviceScores::score gives.
using ScoreTokens = std::function<std::vector<TokenDivergence>(
    std::span<const int32_t>, const Batch&, std::span<const int32_t>)>;

// reference may be null. tokens: of the largest batch; max_vram: bytes, 0 for nearly all that is
// free. Activations are BF16 where a model declares BF16, else F16. Throws Error where there is no
// GPU, and as DeviceScores.
ScoreTokens gpu_scores(std::shared_ptr<const Model> model, std::shared_ptr<const Model> reference,
                       int64_t tokens, int64_t max_vram);

}  // namespace nibble
