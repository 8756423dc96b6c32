// DeviceInputs: the sums of calibration (kernels/hessian.h) over the inputs of every linear layer,
// on a device: the stream of all windows stays there, blocks go by one after the other. A template
// over the device, as DeviceForward; for a GPU: gpu_inputs.h.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/cuda/add_columns.h"
#include "kernels/cuda/add_gram.h"
#include "kernels/hessian.h"
#include "src/architecture/architecture.h"
#include "src/model/block_loader.h"
#include "src/model/device_forward.h"
#include "src/model/model.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {

// Of the inputs of one group of a block, over some of the windows.
struct GroupSums {
  InputGroup group = InputGroup::kAttention;
  bool kept_out = false;  // over the windows that are, else over the others
  int64_t tokens = 0;
  Matrix gram = {};  // [K, K] X'X, upper triangle
  ColumnSums columns = {};
};
// What a block gives: groups in the order of the forward pass, each the one and, if any windows
// are, the kept out.
using SeeGroupSums = std::function<void(int64_t block, std::vector<GroupSums> groups)>;

// Which windows are summed apart: [windows].
using KeptOut = std::vector<bool>;

// T: F16, BF16.
template <typename Device, typename T>
class DeviceInputs {
 public:
  // The model is used as long as this lives; max_bytes as in DeviceScores. Throws Error as
  // DeviceScores, and when the stream of all windows has no room.
  DeviceInputs(Device& device, const Model& model, const Batch& windows, int64_t max_bytes)
      : device_(device),
        model_(model),
        windows_(windows),
        budget_(device, max_bytes),
        together_(std::clamp<int64_t>(kTokensTogether / windows.window, 1, windows.windows)),
        forward_(device, model, together_ * windows.window),
        loader_(forward_, model, BlockLoader<Device, Forward>::Keeps::kNone),
        stream_(device.allocate(4 * windows.windows * windows.window * hidden())) {
    budget_.check();
  }

  // ids [windows * window]. Throws Error naming block, group and column for inputs that are NaN or
  // infinite.
  void run(std::span<const int32_t> ids, const KeptOut& kept_out, const SeeGroupSums& see) {
    model_.check_batch(ids, windows_);
    for_parts([&](int64_t first, const Batch& part) {
      forward_.embed(ids.subspan(static_cast<size_t>(first * part.window),
                                 static_cast<size_t>(part.windows * part.window)),
                     part);
    });
    loader_.run(budget_, [&](int64_t index, typename Forward::Block& block) {
      sums_.clear();
      for_parts([&](int64_t first, const Batch& part) {
        forward_.forward(block, nullptr, [&](InputGroup group, const T* x, int64_t K) {
          add(group, x, K, first, part, kept_out);
        });
      });
      budget_.check();
      see(index, read(index));
    });
  }

 private:
  using Forward = DeviceForward<Device, T>;
  using Array = typename Device::Array;
  static constexpr int64_t kTokensTogether = 8192;

  struct Sums {
    int64_t K = 0;
    int64_t tokens = 0;
    Array gram, absolute, largest;
  };

  int64_t hidden() const { return model_.config().hidden_size; }

  // use(first window, part) with the stream of each part of the windows.
  template <typename Use>
  void for_parts(const Use& use) {
    for (int64_t first = 0; first < windows_.windows; first += together_) {
      const Batch part{.windows = std::min(together_, windows_.windows - first),
                       .window = windows_.window};
      forward_.resume(part, stream_.template as<float>() + first * part.window * hidden());
      use(first, part);
    }
  }

  // x [part.windows * part.window, K], windows from `first` on.
  void add(InputGroup group, const T* x, int64_t K, int64_t first, const Batch& part,
           const KeptOut& kept_out) {
    for (int64_t begin = 0; begin < part.windows;) {
      const bool apart = kept_out[static_cast<size_t>(first + begin)];
      int64_t end = begin + 1;
      while (end < part.windows && kept_out[static_cast<size_t>(first + end)] == apart) ++end;
      add_rows(sums_[{group, apart}], x + begin * part.window * K, (end - begin) * part.window, K);
      begin = end;
    }
  }

  void add_rows(Sums& sums, const T* x, int64_t tokens, int64_t K) {
    if (sums.tokens == 0) {
      sums.K = K;
      sums.gram = device_.allocate(4 * K * K);
      sums.absolute = device_.allocate(4 * K);
      sums.largest = device_.allocate(4 * K);
    }
    AddGramArguments<T> gram;
    gram.M = static_cast<int>(tokens);
    gram.K = static_cast<int>(K);
    gram.x = x;
    gram.x_stride = K;
    gram.starts = sums.tokens == 0;
    gram.sum = sums.gram.template as<float>();
    device_.template launch<AddGram<T>>(gram, AddGram<T>::blocks(gram));
    typename AddColumns<T>::Arguments columns;
    columns.M = gram.M;
    columns.K = gram.K;
    columns.x = x;
    columns.x_stride = K;
    columns.starts = gram.starts;
    columns.absolute = sums.absolute.template as<float>();
    columns.largest = sums.largest.template as<float>();
    device_.template launch<AddColumns<T>>(columns, AddColumns<T>::blocks(columns));
    sums.tokens += tokens;
  }

  std::vector<float> read(const Array& array, int64_t count) const {
    std::vector<float> values(static_cast<size_t>(count));
    device_.read(array, std::as_writable_bytes(std::span(values)));
    return values;
  }

  std::vector<GroupSums> read(int64_t block) const {
    std::vector<GroupSums> groups;
    for (const auto& [key, sums] : sums_) {
      GroupSums group{.group = key.first, .kept_out = key.second, .tokens = sums.tokens};
      const std::vector<float> absolute = read(sums.absolute, sums.K);
      const auto bad = std::ranges::find_if_not(absolute, [](float x) { return std::isfinite(x); });
      if (bad != absolute.end()) {
        throw Error("block " + std::to_string(block),
                    "an input of its linear layers, column " +
                        std::to_string(bad - absolute.begin()) + " of " + std::to_string(sums.K) +
                        ", is NaN or beyond the range of the GPU's 16-bit activations",
                    "--device cpu computes in float");
      }
      group.columns.absolute.assign(absolute.begin(), absolute.end());
      group.columns.largest = read(sums.largest, sums.K);
      group.gram.resize(sums.K, sums.K);
      device_.read(sums.gram, std::as_writable_bytes(std::span(
                                  group.gram.data(), static_cast<size_t>(group.gram.size()))));
      groups.push_back(std::move(group));
    }
    return groups;
  }

  Device& device_;
  const Model& model_;
  Batch windows_;
  MemoryBudget<Device> budget_;
  int64_t together_;  // windows
  Forward forward_;
  BlockLoader<Device, Forward> loader_;
  Array stream_;                                      // [windows * window, hidden_size] float
  std::map<std::pair<InputGroup, bool>, Sums> sums_;  // of the block
};

}  // namespace nibble
