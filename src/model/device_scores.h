// DeviceScores: the loss of every scored token on a device, and its divergence from a reference
// model there; logits exist for some rows and a part of the vocabulary at a time. A template over
// the device, as DeviceForward; for a GPU: gpu_scores.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/score_logits.h"
#include "kernels/divergence.h"
#include "src/model/block_loader.h"
#include "src/model/device_forward.h"
#include "src/model/device_weights.h"
#include "src/model/model.h"

namespace nibble {

// T: F16, BF16.
template <typename Device, typename T>
class DeviceScores {
 public:
  // The models are used as long as this lives; reference may be null. tokens: of the largest batch;
  // max_bytes: of the device's memory, 0 for nearly all that is free. Throws Error for what the
  // device's kernels do not have, and when the embeddings and activations have no room.
  DeviceScores(Device& device, const Model& model, const Model* reference, int64_t tokens,
               int64_t max_bytes)
      : device_(device), budget_(device, max_bytes), model_(device, model, tokens) {
    if (reference != nullptr) {
      reference_ = std::make_unique<Side>(device, *reference, tokens);
    }
    budget_.check();
    const int64_t rows = model_.forward.logit_rows();
    q_sums_ = device.allocate(rows * sums_bytes());
    p_sums_ = device.allocate(rows * sums_bytes());
    weighted_ = device.allocate(rows * 4);
  }

  // ids [T], targets [T]: -1 is not scored. One for every scored token, in
  // order; without a reference only nll is set.
  std::vector<TokenDivergence> score(std::span<const int32_t> ids, const Batch& batch,
                                     std::span<const int32_t> targets) {
    run(model_, ids, batch);
    if (reference_) run(*reference_, ids, batch);
    std::vector<int32_t> rows, scored;
    for (size_t t = 0; t < targets.size(); ++t) {
      if (targets[t] < 0) continue;
      rows.push_back(static_cast<int32_t>(t));
      scored.push_back(targets[t]);
    }
    std::vector<TokenDivergence> result;
    const auto at_once = static_cast<size_t>(model_.forward.logit_rows());
    for (size_t first = 0; first < rows.size(); first += at_once) {
      const size_t count = std::min(at_once, rows.size() - first);
      score_rows(std::span(rows).subspan(first, count), std::span(scored).subspan(first, count),
                 result);
    }
    return result;
  }

  // Of the model, on the device between batches.
  int64_t resident_blocks() const { return model_.loader.resident_blocks(); }
  // x [T, hidden_size] after the last block of the last batch.
  std::vector<float> read_stream() const { return model_.forward.read_stream(); }

 private:
  using Forward = DeviceForward<Device, T>;
  struct Side {
    Side(Device& device, const Model& source, int64_t tokens)
        : model(source), forward(device, source, tokens), loader(forward, source) {}
    Side(const Side&) = delete;
    Side& operator=(const Side&) = delete;
    const Model& model;
    Forward forward;
    BlockLoader<Device, Forward> loader;
  };

  static constexpr int64_t sums_bytes() { return sizeof(LogitSums); }

  void run(Side& side, std::span<const int32_t> ids, const Batch& batch) {
    side.model.check_batch(ids, batch);
    side.forward.embed(ids, batch);
    side.loader.run(budget_, [&](int64_t /*index*/, typename Forward::Block& block) {
      side.forward.forward(block);
    });
  }

  // rows: of the stream.
  void score_rows(std::span<const int32_t> rows, std::span<const int32_t> targets,
                  std::vector<TokenDivergence>& result) {
    const auto count = static_cast<int64_t>(rows.size());
    const auto row_indexes = device_.copy(std::as_bytes(rows));
    const auto target_ids = device_.copy(std::as_bytes(targets));
    ScoreLogits::Arguments a;
    a.stride = model_.forward.logit_columns();
    a.targets = target_ids.template as<int32_t>();
    a.q_sums = q_sums_.template as<LogitSums>();
    a.p_sums = p_sums_.template as<LogitSums>();
    a.weighted = weighted_.template as<float>();
    model_.forward.norm_rows(row_indexes.template as<int32_t>(), count);
    if (reference_) reference_->forward.norm_rows(row_indexes.template as<int32_t>(), count);
    const int64_t vocabulary = model_.forward.vocabulary();
    for (int64_t first = 0; first < vocabulary; first += a.stride) {
      const int64_t columns = std::min(a.stride, vocabulary - first);
      a.first = static_cast<int>(first);
      a.columns = static_cast<int>(columns);
      a.q = model_.forward.logits(first, columns);
      if (reference_) a.p = reference_->forward.logits(first, columns);
      device_.template launch<ScoreLogits>(a, count);
    }
    add_results(rows.size(), result);
  }

  template <typename Value>
  std::vector<Value> read(const typename Device::Array& array, size_t count) {
    std::vector<Value> all(static_cast<size_t>(model_.forward.logit_rows()));
    device_.read(array, std::as_writable_bytes(std::span(all)));
    all.resize(count);
    return all;
  }

  static double log_sum(const LogitSums& s) { return s.largest + std::log(double{s.sum}); }

  void add_results(size_t count, std::vector<TokenDivergence>& result) {
    const auto q = read<LogitSums>(q_sums_, count);
    for (const LogitSums& sums : q) result.push_back({.nll = log_sum(sums) - sums.target});
    if (!reference_) return;
    const auto p = read<LogitSums>(p_sums_, count);
    const auto weighted = read<float>(weighted_, count);
    for (size_t i = 0; i < count; ++i) {
      TokenDivergence& token = result[result.size() - count + i];
      token.reference_nll = log_sum(p[i]) - p[i].target;
      token.kl = double{weighted[i]} / p[i].sum - (log_sum(p[i]) - log_sum(q[i]));
      token.same_top = p[i].top == q[i].top;
    }
  }

  Device& device_;
  MemoryBudget<Device> budget_;
  Side model_;
  std::unique_ptr<Side> reference_;
  typename Device::Array q_sums_, p_sums_;  // LogitSums [logit_rows()]
  typename Device::Array weighted_;         // float [logit_rows()]
};

}  // namespace nibble
