// DeviceSession: one sequence on a device that grows by the tokens it is given, with its keys and
// values in a cache. A template over the device, as DeviceForward; for a GPU: gpu_session.h.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "src/model/block_loader.h"
#include "src/model/device_forward.h"
#include "src/model/model.h"

namespace nibble {

// T: F16, BF16.
template <typename Device, typename T>
class DeviceSession {
 public:
  // The model is used as long as this lives. context: of all tokens to come; max_bytes as in
  // DeviceScores. Throws Error as DeviceScores.
  DeviceSession(Device& device, const Model& model, int64_t context, int64_t max_bytes)
      : model_(model),
        budget_(device, max_bytes),
        together_(std::min(context, kMostTogether)),
        forward_(device, model, together_),
        loader_(forward_, model) {
    for (int64_t i = 0; i < model.config().layers; ++i) {
      caches_.push_back(forward_.make_cache(context));
    }
    budget_.check();
  }

  // Logits [vocabulary_size] after the last of these tokens, of which there is one at least.
  std::vector<float> append(std::span<const int32_t> ids) {
    assert(!ids.empty());
    while (!ids.empty()) {
      const auto count = std::min(ids.size(), static_cast<size_t>(together_));
      run(ids.first(count));
      ids = ids.subspan(count);
    }
    return forward_.read_last_logits();
  }

  int64_t tokens() const { return tokens_; }
  // As in DeviceScores.
  int64_t resident_blocks() const { return loader_.resident_blocks(); }

 private:
  using Forward = DeviceForward<Device, T>;
  static constexpr int64_t kMostTogether = 512;  // tokens: their activations have room

  void run(std::span<const int32_t> ids) {
    const Batch batch{.windows = 1, .window = std::ssize(ids)};
    model_.check_batch(ids, batch, tokens_);
    forward_.embed(ids, batch, tokens_);
    loader_.run(budget_, [&](int64_t index, typename Forward::Block& block) {
      forward_.forward(block, &caches_[static_cast<size_t>(index)]);
    });
    tokens_ += batch.window;
  }

  const Model& model_;
  MemoryBudget<Device> budget_;
  int64_t together_;
  Forward forward_;
  BlockLoader<Device, Forward> loader_;
  std::vector<typename Forward::Cache> caches_;
  int64_t tokens_ = 0;
};

}  // namespace nibble
