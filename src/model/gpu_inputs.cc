#include "src/model/gpu_inputs.h"

#include <cstdint>
#include <span>

#include "kernels/cuda/device.h"
#include "kernels/cuda/gpu_device.h"
#include "src/model/device_inputs.h"
#include "src/model/device_weights.h"
#include "src/model/model.h"
#include "src/tensor/dtype.h"

namespace nibble {

void gpu_inputs(const Model& model, std::span<const int32_t> ids, const Batch& windows,
                const KeptOut& kept_out, int64_t max_vram, const SeeGroupSums& see) {
  check_device_sizes(model.config(), model.checkpoint().folder().string());
  GpuDevice device;
  if (model.config().dtype == Dtype::kBF16) {
    DeviceInputs<GpuDevice, BF16>(device, model, windows, max_vram).run(ids, kept_out, see);
  } else {
    DeviceInputs<GpuDevice, F16>(device, model, windows, max_vram).run(ids, kept_out, see);
  }
}

}  // namespace nibble
