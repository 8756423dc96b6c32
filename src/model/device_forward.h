// DeviceForward: the forward pass of a model on a device, as a template over it: GpuDevice
// (kernels/cuda/gpu_device.h), and in tests the block executor. The residual stream is float, what
// the linear layers read and write F16 or BF16, logits float. Who loads which block when is
// device_scores.h.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/activate.h"
#include "kernels/cuda/add_norm.h"
#include "kernels/cuda/dense_product.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_attention.h"
#include "kernels/cuda/embed_tokens.h"
#include "kernels/cuda/rotate_heads.h"
#include "kernels/cuda/store_rows.h"
#include "kernels/rope.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/model/device_weights.h"
#include "src/model/layout.h"
#include "src/model/model.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {

// A device has
//   Array, Linear             owners of memory and of a packed layer; as<T>() of an Array is where
//   allocate(bytes), copy(bytes) -> Array,  read(array, out),  make_linear(FragmentLinear)
//   multiply(linear, type, x, M, x_stride, bias, y)
//   launch<Kernel>(arguments, blocks)
// T: F16, BF16.
template <typename Device, typename T>
class DeviceForward {
 public:
  using Array = typename Device::Array;
  static constexpr Dtype kType = std::is_same_v<T, F16> ? Dtype::kF16 : Dtype::kBF16;

  struct Linear {
    LinearModule module;
    std::optional<typename Device::Linear> packed;
    Array dense;  // [N, columns] without `packed`
    int64_t columns = 0;
    Array bias;  // [N], or empty
  };
  struct Norm {
    Array weight, bias;  // empty: none
  };
  struct Block {
    Norm attention_norm, mlp_norm, query_norm, key_norm;
    std::vector<Linear> attention;
    Linear attention_output;
    std::vector<Linear> mlp;
    Linear down;
  };

  // The keys and values of a sequence in one block, of the tokens so far.
  struct Cache {
    Array keys, values;  // [context, key_value_heads * head_size]
  };

  // tokens: of the largest batch. The embeddings, the final norm and the head are copied now.
  DeviceForward(Device& device, const Model& model, int64_t tokens)
      : device_(device),
        config_(model.config()),
        tokens_(tokens),
        embedding_(upload(model.checkpoint().tensor(model.layout().embedding))),
        head_(upload(load_head_weights(model, kType))),
        final_norm_(
            upload(load_norm(model.checkpoint(), model.layout(), model.layout().final_norm))),
        x_(floats(tokens * config_.hidden_size)),
        stream_(x_.template as<float>()),
        normed_(halves(tokens * config_.hidden_size)),
        delta_(halves(tokens * config_.hidden_size)),
        attended_(halves(tokens * config_.heads * config_.head_size)),
        projections_(
            halves(tokens * (config_.heads + 2 * config_.key_value_heads) * config_.head_size)),
        gate_and_up_(halves(2 * tokens * config_.intermediate_size)),
        hidden_(halves(tokens * config_.intermediate_size)),
        logit_rows_(std::min(kMostLogitRows, tokens)),
        logit_columns_(std::min(kMostLogitColumns, config_.vocabulary_size)),
        logits_(floats(logit_rows_ * logit_columns_)) {
    const std::string& positions = model.layout().position_embedding;
    if (positions.empty()) return;
    const Tensor table = model.checkpoint().tensor(positions);
    if (table.dtype() != embedding_.type) {
      throw Error(positions, "another type than the token embeddings' on the GPU",
                  "--device cpu runs it");
    }
    positions_ = upload(table).rows;
  }

  Block upload(const BlockWeights& weights) {
    Block block;
    block.attention_norm = upload(weights.attention_norm);
    block.mlp_norm = upload(weights.mlp_norm);
    block.query_norm = upload(weights.query_norm);
    block.key_norm = upload(weights.key_norm);
    for (const LinearWeights& linear : weights.attention) block.attention.push_back(upload(linear));
    block.attention_output = upload(weights.attention_output);
    for (const LinearWeights& linear : weights.mlp) block.mlp.push_back(upload(linear));
    block.down = upload(weights.down);
    return block;
  }

  // Room for a sequence of so many tokens.
  Cache make_cache(int64_t context) {
    const int64_t columns = config_.key_value_heads * config_.head_size;
    return {halves(context * columns), halves(context * columns)};
  }

  // Starts a batch: ids [windows * window], which Model::check_batch has passed. first_position:
  // of every window.
  void embed(std::span<const int32_t> ids, const Batch& batch, int64_t first_position = 0) {
    assert(batch.windows * batch.window <= tokens_);
    batch_ = batch;
    first_position_ = first_position;
    const int64_t end = first_position + batch.window;
    if (config_.architecture->positions == Positions::kRope && table_rows_ < end) {
      // A sequence that grows by a token comes back for the next one.
      table_rows_ = std::max(end, std::min(2 * table_rows_, config_.context));
      const RopeTable table = rope_table(config_.rope_frequencies(), 0, table_rows_);
      cosine_ = device_.copy(std::as_bytes(std::span(table.cosine.data(), table.cosine.size())));
      sine_ = device_.copy(std::as_bytes(std::span(table.sine.data(), table.sine.size())));
    }
    ids_ = device_.copy(std::as_bytes(ids));
    switch (embedding_.type) {
      case Dtype::kF32:
        return embed_as<float>();
      case Dtype::kF16:
        return embed_as<F16>();
      default:
        return embed_as<BF16>();
    }
  }

  // Goes on with another batch, whose stream [windows * window, hidden_size] is there (or comes
  // there, where embed() follows).
  void resume(const Batch& batch, float* stream) {
    batch_ = batch;
    first_position_ = 0;
    stream_ = stream;
  }

  // The next block's input. With a cache, the batch is one window, and goes on where the cache
  // ends, at first_position.
  void forward(Block& block, Cache* cache = nullptr) {
    forward(block, cache, [](InputGroup, const T*, int64_t) {});
  }
  // see(group, x, K): the inputs [windows * window, K] of the linear layers of each group.
  template <typename See>
  void forward(Block& block, Cache* cache, const See& see) {
    assert(cache == nullptr ? first_position_ == 0 : batch_.windows == 1);
    norm(block.attention_norm, nullptr);
    see(InputGroup::kAttention, normed_.template as<T>(), config_.hidden_size);
    const Outputs qkv = multiply(block.attention, projections_);
    rotate(qkv.at(Role::kQuery), config_.heads, block.query_norm);
    rotate(qkv.at(Role::kKey), config_.key_value_heads, block.key_norm);
    attend(qkv, cache);
    see(InputGroup::kAttentionOutput, attended_.template as<T>(),
        config_.heads * config_.head_size);
    multiply(block.attention_output, attended_.template as<T>(), delta_.template as<T>(), rows());
    norm(block.mlp_norm, delta_.template as<T>());
    see(InputGroup::kMlp, normed_.template as<T>(), config_.hidden_size);
    activate(multiply(block.mlp, gate_and_up_));
    see(InputGroup::kMlpDown, hidden_.template as<T>(), config_.intermediate_size);
    multiply(block.down, hidden_.template as<T>(), delta_.template as<T>(), rows());
    norm({}, delta_.template as<T>());
  }

  // x [T, hidden_size], after the blocks so far.
  std::vector<float> read_stream() const {
    std::vector<float> all(static_cast<size_t>(tokens_ * config_.hidden_size));
    device_.read(x_, std::as_writable_bytes(std::span(all)));
    all.resize(static_cast<size_t>(rows() * config_.hidden_size));
    return all;
  }

  int64_t vocabulary() const { return config_.vocabulary_size; }
  // Logits of up to logit_rows() rows of the stream and logit_columns() entries of the vocabulary.
  int64_t logit_rows() const { return logit_rows_; }
  int64_t logit_columns() const { return logit_columns_; }
  // rows: on the device, [count], each once. Before logits().
  void norm_rows(const int32_t* rows, int64_t count) {
    assert(count <= logit_rows_);
    norm(final_norm_, nullptr, rows, count);
    normed_rows_ = count;
  }
  // Of the last token of the batch: [vocabulary_size].
  std::vector<float> read_last_logits() {
    const auto last = static_cast<int32_t>(rows() - 1);
    const Array row = device_.copy(std::as_bytes(std::span(&last, 1)));
    norm_rows(row.template as<int32_t>(), 1);
    std::vector<float> all(static_cast<size_t>(config_.vocabulary_size));
    for (int64_t first = 0; first < config_.vocabulary_size; first += logit_columns_) {
      const int64_t columns = std::min(logit_columns_, config_.vocabulary_size - first);
      logits(first, columns);
      device_.read(logits_, std::as_writable_bytes(std::span(all).subspan(
                                static_cast<size_t>(first), static_cast<size_t>(columns))));
    }
    return all;
  }
  // Of the entries [first, first + columns): [count, logit_columns()], until the next call.
  const float* logits(int64_t first, int64_t columns) {
    DenseArguments<T, float> a;
    a.M = static_cast<int>(normed_rows_);
    a.N = static_cast<int>(columns);
    a.K = static_cast<int>(head_.module.K);
    a.x = normed_.template as<T>();
    a.x_stride = config_.hidden_size;
    a.weights = head_.dense.template as<T>() + first * head_.columns;
    a.weights_stride = head_.columns;
    if (head_.bias.bytes() != 0) a.bias = head_.bias.template as<T>() + first;
    a.y = logits_.template as<float>();
    a.y_stride = logit_columns_;
    launch<DenseProduct<T, float>>(a, DenseProduct<T, float>::blocks(a));
    return a.y;
  }

 private:
  // 32 MB of logits, which caches hold.
  static constexpr int64_t kMostLogitRows = 1024;
  static constexpr int64_t kMostLogitColumns = 8192;

  struct Embedding {
    Array rows;
    Dtype type = Dtype::kF32;
  };
  // Some columns of rows of tokens.
  struct Columns {
    T* data = nullptr;
    int64_t stride = 0;
  };
  // The outputs of layers that share an input, one layer after the other, and who is where.
  struct Outputs {
    struct Part {
      Role role;
      Columns columns;
    };
    std::vector<Part> parts;

    Columns at(Role role) const {
      for (const Part& part : parts) {
        if (part.role == role) return part.columns;
      }
      return {};
    }
  };

  int64_t rows() const { return batch_.windows * batch_.window; }
  Array floats(int64_t count) { return device_.allocate(count * 4); }
  Array halves(int64_t count) { return device_.allocate(count * 2); }

  template <typename Value>
  Array copy(const Value& values) {
    return device_.copy(
        std::as_bytes(std::span(values.data(), static_cast<size_t>(values.size()))));
  }
  Embedding upload(const Tensor& table) {
    if (table.dtype() != Dtype::kF32 && table.dtype() != Dtype::kF16 &&
        table.dtype() != Dtype::kBF16) {
      throw Error("", "embeddings of " + std::string(dtype_name(table.dtype())) + " on the GPU",
                  "F32, F16 and BF16 can be; --device cpu takes any");
    }
    return {device_.copy(table.bytes()), table.dtype()};
  }
  Norm upload(const NormWeights& norm) { return {copy(norm.weight), copy(norm.bias)}; }
  Linear upload(const LinearWeights& weights) {
    Linear linear;
    linear.module = weights.module;
    linear.columns = weights.columns();
    if (weights.packed) {
      linear.packed.emplace(device_.make_linear(*weights.packed));
    } else {
      linear.dense = copy(weights.dense);
    }
    linear.bias = copy(weights.bias);
    return linear;
  }

  template <typename Kernel>
  void launch(const typename Kernel::Arguments& arguments, int64_t blocks) {
    if (blocks > 0) device_.template launch<Kernel>(arguments, blocks);
  }

  template <typename Stored>
  void embed_as() {
    typename EmbedTokens<Stored>::Arguments a;
    a.n = static_cast<int>(config_.hidden_size);
    a.ids = ids_.template as<int32_t>();
    a.tokens = embedding_.rows.template as<Stored>();
    a.positions = positions_.template as<Stored>();
    a.first_position = static_cast<int>(first_position_);
    a.window = static_cast<int>(batch_.window);
    a.x = stream_;
    launch<EmbedTokens<Stored>>(a, rows());
  }

  // The stream plus delta (or as it is), and its norm in normed_. Without weights only the sum.
  void norm(const Norm& weights, const T* delta, const int32_t* rows, int64_t count) {
    typename AddNorm<T>::Arguments a;
    a.n = static_cast<int>(config_.hidden_size);
    a.x = stream_;
    a.delta = delta;
    a.rows = rows;
    a.subtract_mean = config_.architecture->norm == nibble::Norm::kLayer;
    a.epsilon = static_cast<float>(config_.norm_epsilon);
    a.weight = weights.weight.template as<float>();
    a.bias = weights.bias.template as<float>();
    a.y = normed_.template as<T>();
    launch<AddNorm<T>>(a, count);
  }
  void norm(const Norm& weights, const T* delta) { norm(weights, delta, nullptr, rows()); }

  // x [M, K] -> y [M, N].
  void multiply(Linear& linear, const T* x, T* y, int64_t M) {
    const T* bias = linear.bias.template as<T>();
    if (linear.packed) {
      return device_.multiply(*linear.packed, kType, x, M, linear.module.K, bias, y);
    }
    DenseArguments<T, T> a;
    a.M = static_cast<int>(M);
    a.N = static_cast<int>(linear.module.N);
    a.K = static_cast<int>(linear.module.K);
    a.x = x;
    a.x_stride = linear.module.K;
    a.weights = linear.dense.template as<T>();
    a.weights_stride = linear.columns;
    a.bias = bias;
    a.y = y;
    a.y_stride = linear.module.N;
    launch<DenseProduct<T, T>>(a, DenseProduct<T, T>::blocks(a));
  }

  // All layers of normed_, into `outputs`.
  Outputs multiply(std::vector<Linear>& linears, const Array& outputs) {
    Outputs result;
    T* y = outputs.template as<T>();
    for (Linear& linear : linears) {
      multiply(linear, normed_.template as<T>(), y, rows());
      for (const Role role : linear.module.roles) {
        const int64_t first = ModelLayout::rows_of(config_, linear.module, role).first;
        result.parts.push_back({role, {y + first, linear.module.N}});
      }
      y += rows() * linear.module.N;
    }
    return result;
  }

  void rotate(const Columns& x, int64_t heads, const Norm& weights) {
    if (weights.weight.bytes() == 0 && table_rows_ == 0) return;
    typename RotateHeads<T>::Arguments a;
    a.M = static_cast<int>(rows());
    a.heads = static_cast<int>(heads);
    a.head_size = static_cast<int>(config_.head_size);
    a.x = x.data;
    a.stride = x.stride;
    a.weight = weights.weight.template as<float>();
    a.epsilon = static_cast<float>(config_.norm_epsilon);
    if (table_rows_ > 0) {
      const int64_t first = first_position_ * (config_.head_size / 2);
      a.cosine = cosine_.template as<float>() + first;
      a.sine = sine_.template as<float>() + first;
    }
    a.window = static_cast<int>(batch_.window);
    launch<RotateHeads<T>>(a, RotateHeads<T>::blocks(a));
  }

  // Appends some columns of the batch to rows of a cache.
  void store(const Columns& x, const Array& rows_so_far) {
    typename StoreRows<T>::Arguments a;
    a.M = static_cast<int>(rows());
    a.n = static_cast<int>(config_.key_value_heads * config_.head_size);
    a.x = x.data;
    a.x_stride = x.stride;
    a.y = rows_so_far.template as<T>() + first_position_ * a.n;
    launch<StoreRows<T>>(a, StoreRows<T>::blocks(a));
  }

  void attend(const Outputs& qkv, Cache* cache) {
    DeviceAttentionArguments<T> a;
    a.windows = static_cast<int>(batch_.windows);
    a.queries = a.keys = static_cast<int>(batch_.window);
    a.heads = static_cast<int>(config_.heads);
    a.key_value_heads = static_cast<int>(config_.key_value_heads);
    a.head_size = static_cast<int>(config_.head_size);
    a.sliding_window = static_cast<int>(config_.sliding_window);
    a.scale = 1.F / std::sqrt(static_cast<float>(config_.head_size));
    a.q = qkv.at(Role::kQuery).data;
    a.q_stride = qkv.at(Role::kQuery).stride;
    a.k = qkv.at(Role::kKey).data;
    a.k_stride = qkv.at(Role::kKey).stride;
    a.v = qkv.at(Role::kValue).data;
    a.v_stride = qkv.at(Role::kValue).stride;
    if (cache != nullptr) {
      store(qkv.at(Role::kKey), cache->keys);
      store(qkv.at(Role::kValue), cache->values);
      a.keys = static_cast<int>(first_position_ + batch_.window);
      a.k = cache->keys.template as<T>();
      a.v = cache->values.template as<T>();
      a.k_stride = a.v_stride = config_.key_value_heads * config_.head_size;
    }
    a.out = attended_.template as<T>();
    if (config_.head_size <= 64) {
      launch<DeviceAttention<T, 64>>(a, DeviceAttention<T, 64>::blocks(a));
    } else {
      launch<DeviceAttention<T, 128>>(a, DeviceAttention<T, 128>::blocks(a));
    }
  }

  void activate(const Outputs& gate_and_up) {
    const Columns up = gate_and_up.at(Role::kUp);
    typename Activate<T>::Arguments a;
    a.function = config_.activation == Activation::kSilu       ? DeviceActivation::kSilu
                 : config_.activation == Activation::kGeluTanh ? DeviceActivation::kGeluTanh
                                                               : DeviceActivation::kGeluErf;
    a.M = static_cast<int>(rows());
    a.n = static_cast<int>(config_.intermediate_size);
    a.gate = gate_and_up.at(Role::kGate).data;
    a.up = up.data;
    a.stride = up.stride;
    a.y = hidden_.template as<T>();
    launch<Activate<T>>(a, Activate<T>::blocks(a));
  }

  Device& device_;
  const Config& config_;
  int64_t tokens_ = 0;  // there is room for
  Embedding embedding_;
  Array positions_;
  Linear head_;
  Norm final_norm_;
  Array x_;                          // [tokens, hidden_size] float
  float* stream_;                    // of the batch: in x_, or where resume() said
  Array normed_;                     // [tokens, hidden_size] T, as all below
  Array delta_;                      // likewise: what a layer adds to the stream
  Array attended_;                   // [tokens, heads * head_size]
  Array projections_, gate_and_up_;  // Outputs
  Array hidden_;                     // [tokens, intermediate_size]
  int64_t logit_rows_ = 0;
  int64_t logit_columns_ = 0;
  Array logits_;  // [logit_rows_, logit_columns_] float
  Array ids_, cosine_, sine_;
  int64_t table_rows_ = 0;  // of cosine_ and sine_ [table_rows_, head_size / 2]
  Batch batch_;
  int64_t first_position_ = 0;  // of every window of the batch
  int64_t normed_rows_ = 0;
};

}  // namespace nibble
