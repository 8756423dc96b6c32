// BlockLoader: brings the blocks of a model to a device one after the other. The next block is
// read, packed and copied by a thread of its own while the device computes with the one before.
// Blocks stay there as long as there is room; the others are brought again each time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "src/model/device_weights.h"
#include "src/model/model.h"
#include "src/tensor/error.h"

namespace nibble {

// How much of a device's memory may be in use.
template <typename Device>
class MemoryBudget {
 public:
  // max_bytes: 0 for nearly all that is free now.
  MemoryBudget(const Device& device, int64_t max_bytes)
      : device_(&device), at_start_(device.free_bytes()), max_bytes_(max_bytes) {
    if (max_bytes_ == 0) max_bytes_ = at_start_ - at_start_ / kSpare;
  }

  bool has_room(int64_t bytes) const { return used() + bytes <= max_bytes_; }
  // Throws Error when more is in use than may be.
  void check() const {
    if (has_room(0)) return;
    throw Error("--max-vram",
                "more than " + std::to_string(max_bytes_ >> 20) +
                    " MiB of GPU memory are needed: " + std::to_string(used() >> 20) +
                    " MiB so far",
                "a smaller --seq-len, or --device cpu");
  }

 private:
  static constexpr int64_t kSpare = 20;  // one in so many is left to others
  int64_t used() const { return at_start_ - device_->free_bytes(); }

  const Device* device_;
  int64_t at_start_;
  int64_t max_bytes_;
};

// Forward: DeviceForward on Device.
template <typename Device, typename Forward>
class BlockLoader {
 public:
  enum class Keeps { kNone, kWhatHasRoom };

  BlockLoader(Forward& forward, const Model& model, Keeps keeps = Keeps::kWhatHasRoom)
      : forward_(&forward), model_(&model), keeps_(keeps) {}

  // use(index, block) for every block of the model in order.
  template <typename Use>
  void run(const MemoryBudget<Device>& budget, const Use& use) {
    const int64_t layers = model_->config().layers;
    for (int64_t i = 0; i < std::ssize(resident_); ++i) use(i, resident_[static_cast<size_t>(i)]);
    std::future<Loaded> next;
    const auto begin = [&](int64_t index) {
      next = std::async(std::launch::async, [this, index] { return load(index); });
    };
    if (std::ssize(resident_) < layers) begin(std::ssize(resident_));
    for (int64_t i = std::ssize(resident_); i < layers; ++i) {
      Loaded loaded = next.get();
      if (i + 1 < layers) begin(i + 1);
      use(i, loaded.block);
      budget.check();
      const bool keep = keeps_ == Keeps::kWhatHasRoom && i == std::ssize(resident_) &&
                        budget.has_room(kAhead * loaded.bytes);
      if (keep) resident_.push_back(std::move(loaded.block));
    }
  }

  int64_t resident_blocks() const { return std::ssize(resident_); }

 private:
  // A block stays if there is room for so many more of its size beside it: the one that comes, the
  // one that is computed with, and their scratch memory.
  static constexpr int64_t kAhead = 4;

  struct Loaded {
    typename Forward::Block block;
    int64_t bytes = 0;
  };
  Loaded load(int64_t index) {
    const BlockWeights weights = load_block_weights(*model_, index, Forward::kType);
    return {forward_->upload(weights), weights.bytes()};
  }

  Forward* forward_;
  const Model* model_;
  Keeps keeps_;
  std::vector<typename Forward::Block> resident_;  // the first ones
};

}  // namespace nibble
