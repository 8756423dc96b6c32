#include "src/model/gpu_session.h"

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "kernels/cuda/device.h"
#include "kernels/cuda/gpu_device.h"
#include "src/model/device_session.h"
#include "src/model/device_weights.h"
#include "src/model/model.h"
#include "src/tensor/dtype.h"

namespace nibble {
namespace {

// Owns all that a closure needs.
template <typename T>
struct GpuSession {
  GpuSession(std::shared_ptr<const Model> source, int64_t context, int64_t max_vram)
      : model(std::move(source)), session(device, *model, context, max_vram) {}

  std::shared_ptr<const Model> model;
  GpuDevice device;
  DeviceSession<GpuDevice, T> session;
};

template <typename T>
AppendTokens make_session(std::shared_ptr<const Model> model, int64_t context, int64_t max_vram) {
  auto state = std::make_shared<GpuSession<T>>(std::move(model), context, max_vram);
  return [state](std::span<const int32_t> ids) { return state->session.append(ids); };
}

}  // namespace

AppendTokens gpu_session(std::shared_ptr<const Model> model, int64_t context, int64_t max_vram) {
  check_device_sizes(model->config(), model->checkpoint().folder().string());
  const auto make = model->config().dtype == Dtype::kBF16 ? make_session<BF16> : make_session<F16>;
  return make(std::move(model), context, max_vram);
}

}  // namespace nibble
