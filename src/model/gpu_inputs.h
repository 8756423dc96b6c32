// Sums over the inputs of linear layers on a GPU: DeviceInputs on GpuDevice, with the activations'
// type chosen.
#pragma once

#include <cstdint>
#include <span>

#include "src/model/device_inputs.h"
#include "src/model/model.h"

namespace nibble {

// ids [windows * window]; see: once for every block, in order. max_vram, the activations' type and
// errors: as gpu_scores(), and as DeviceInputs.
void gpu_inputs(const Model& model, std::span<const int32_t> ids, const Batch& windows,
                const KeptOut& kept_out, int64_t max_vram, const SeeGroupSums& see);

}  // namespace nibble
