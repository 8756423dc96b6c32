#include "src/model/gpu_scores.h"

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "kernels/cuda/device.h"
#include "kernels/cuda/gpu_device.h"
#include "src/model/device_scores.h"
#include "src/model/device_weights.h"
#include "src/model/model.h"
#include "src/tensor/dtype.h"

namespace nibble {
namespace {

// Owns all that a closure needs.
template <typename T>
struct GpuScores {
  GpuScores(std::shared_ptr<const Model> a, std::shared_ptr<const Model> b, int64_t tokens,
            int64_t max_vram)
      : model(std::move(a)),
        reference(std::move(b)),
        scores(device, *model, reference.get(), tokens, max_vram) {}

  std::shared_ptr<const Model> model, reference;
  GpuDevice device;
  DeviceScores<GpuDevice, T> scores;
};

template <typename T>
ScoreTokens make_scores(std::shared_ptr<const Model> model, std::shared_ptr<const Model> reference,
                        int64_t tokens, int64_t max_vram) {
  auto state =
      std::make_shared<GpuScores<T>>(std::move(model), std::move(reference), tokens, max_vram);
  return
      [state](std::span<const int32_t> ids, const Batch& batch, std::span<const int32_t> targets) {
        return state->scores.score(ids, batch, targets);
      };
}

}  // namespace

ScoreTokens gpu_scores(std::shared_ptr<const Model> model, std::shared_ptr<const Model> reference,
                       int64_t tokens, int64_t max_vram) {
  check_device_sizes(model->config(), model->checkpoint().folder().string());
  bool is_bf16 = model->config().dtype == Dtype::kBF16;
  if (reference) {
    check_device_sizes(reference->config(), reference->checkpoint().folder().string());
    is_bf16 = is_bf16 || reference->config().dtype == Dtype::kBF16;
  }
  const auto make = is_bf16 ? make_scores<BF16> : make_scores<F16>;
  return make(std::move(model), std::move(reference), tokens, max_vram);
}

}  // namespace nibble
