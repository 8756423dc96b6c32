#include "src/model/model.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "kernels/cross_entropy.h"
#include "kernels/dequant_matmul.h"
#include "kernels/int8_matmul.h"
#include "kernels/matmul.h"
#include "kernels/workspace.h"
#include "src/architecture/architecture.h"
#include "src/model/layers.h"
#include "src/model/layout.h"
#include "src/model/make_block.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

Vector load_vector(const Checkpoint& checkpoint, const std::string& tensor) {
  const std::vector<float> values = load_floats(checkpoint, tensor);
  return ConstVectorMap(values.data(), std::ssize(values));
}

Linear load_linear(const Checkpoint& checkpoint, const ModelLayout& layout,
                   const LinearModule& module, ModelOptions options) {
  Linear linear;
  linear.roles = module.roles;
  linear.N = module.N;
  linear.K = module.K;
  if (module.quantized_tensors.empty()) {
    linear.dense =
        make_panels(checkpoint.tensor(module.weight).view(), module.transposed, options.products);
    checkpoint.release(module.weight);
  } else {
    const QuantizedLinear q = layout.format->decode(checkpoint, module.name, module.N, module.K);
    set_weights(linear, q, options);
    for (const std::string& tensor : module.quantized_tensors) checkpoint.release(tensor);
  }
  if (!module.bias.empty()) linear.bias = load_vector(checkpoint, module.bias);
  return linear;
}

// Rows of an embedding tensor [rows, hidden] in float.
class EmbeddingRows {
 public:
  EmbeddingRows(const Checkpoint& checkpoint, const std::string& name)
      : tensor_(checkpoint.tensor(name)), row_bytes_(tensor_.bytes().size() / rows()) {}

  size_t rows() const { return static_cast<size_t>(tensor_.shape()[0]); }
  void read(int64_t row, std::span<float> out) const {
    to_float({.dtype = tensor_.dtype(),
              .shape = {std::ssize(out)},
              .bytes = tensor_.bytes().subspan(static_cast<size_t>(row) * row_bytes_, row_bytes_),
              .device = Device::kCpu},
             out);
  }

 private:
  Tensor tensor_;
  size_t row_bytes_;
};

int64_t bytes_of(const Linear& linear) {
  return linear.dense.bytes() + (linear.packed ? linear.packed->bytes() : 0) +
         (linear.int8 ? linear.int8->bytes() : 0);
}

}  // namespace

NormWeights load_norm(const Checkpoint& checkpoint, const ModelLayout& layout,
                      const std::string& module) {
  NormWeights norm;
  if (module.empty()) return norm;
  norm.weight = load_vector(checkpoint, module + ".weight");
  if (layout.config.architecture->norm == Norm::kLayer) {
    norm.bias = load_vector(checkpoint, module + ".bias");
  }
  return norm;
}

int64_t Block::bytes() const {
  int64_t sum = bytes_of(attention_output) + bytes_of(down);
  for (const Linear& linear : attention) sum += bytes_of(linear);
  for (const Linear& linear : mlp) sum += bytes_of(linear);
  return sum;
}

void set_weights(Linear& linear, PanelMatrix dense) {
  linear.dense = std::move(dense);
  linear.packed.reset();
  linear.int8.reset();
  linear.simulated.reset();
}

void set_weights(Linear& linear, const QuantizedLinear& q, ModelOptions options) {
  set_weights(linear, PanelMatrix{});
  const std::optional<ActivationScheme>& activations = q.scheme.activations;
  if (!activations || activations->is_float) {
    if (can_pack(q)) {
      linear.packed = std::make_unique<PackedLinear>(pack(q));
    } else {
      linear.dense = make_panels(dequantize(q), options.products);
    }
    if (!activations) return;
    linear.simulated = {.scheme = *activations};
    if (!activations->dynamic) to_float(q.input_scale.view(), {&linear.simulated->scale, 1});
    return;
  }
  if (!can_run_int8(q)) throw Error("", describe(q.scheme), "is not run yet");
  Int8Linear int8 = make_int8(q);
  if (!options.simulate_activations) {
    linear.int8 = std::make_unique<Int8Linear>(std::move(int8));
    return;
  }
  linear.simulated = {
      .scheme = int8.activations, .scale = int8.input_scale, .zero = int8.input_zero};
  linear.dense = make_panels(dequantize(q), options.products);
}

Model::Model(std::shared_ptr<const Checkpoint> checkpoint, ModelOptions options)
    : checkpoint_(std::move(checkpoint)),
      options_(options),
      layout_(read_layout(*checkpoint_)),
      workspace_(std::make_unique<Workspace>()) {}

void Model::check_batch(std::span<const int32_t> ids, const Batch& batch,
                        int64_t first_position) const {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < config().vocabulary_size) continue;
    throw Error("token " + std::to_string(i), "id " + std::to_string(ids[i]) +
                                                  " is outside the vocabulary of " +
                                                  std::to_string(config().vocabulary_size));
  }
  if (first_position + batch.window > config().context) {
    throw Error("position " + std::to_string(first_position + batch.window - 1),
                "the model's context has " + std::to_string(config().context) + " positions",
                "a shorter sequence");
  }
}

Matrix Model::embed(std::span<const int32_t> ids, const Batch& batch,
                    int64_t first_position) const {
  check_batch(ids, batch, first_position);
  const auto hidden = static_cast<size_t>(config().hidden_size);
  Matrix x(std::ssize(ids), config().hidden_size);
  const EmbeddingRows tokens(*checkpoint_, layout_.embedding);
  for (int64_t t = 0; t < x.rows(); ++t) tokens.read(ids[t], {x.row(t).data(), hidden});
  if (layout_.position_embedding.empty()) return x;
  const EmbeddingRows positions(*checkpoint_, layout_.position_embedding);
  Vector row(config().hidden_size);
  for (int64_t p = 0; p < batch.window; ++p) {
    positions.read(first_position + p, {row.data(), hidden});
    for (int64_t w = 0; w < batch.windows; ++w) x.row(w * batch.window + p) += row.transpose();
  }
  return x;
}

Block Model::load_block(int64_t index) const {
  return make_block<Block>(*checkpoint_, layout_, index, [this](const LinearModule& module) {
    return load_linear(*checkpoint_, layout_, module, options_);
  });
}

Model::Head Model::load_head() const {
  Head head{load_norm(*checkpoint_, layout_, layout_.final_norm), {}};
  if (layout_.head) {
    head.linear = load_linear(*checkpoint_, layout_, layout_.linears[*layout_.head], options_);
    return head;
  }
  LinearModule tied;
  tied.weight = layout_.embedding;
  tied.N = config().vocabulary_size;
  tied.K = config().hidden_size;
  tied.roles = {Role::kOutputHead};
  head.linear = load_linear(*checkpoint_, layout_, tied, options_);
  return head;
}

Matrix Model::logits(const Head& head, ConstMatrixRef x) const {
  Matrix normed(x.rows(), x.cols());
  apply_norm(config(), head.norm, x, normed);
  Matrix out(x.rows(), head.linear.N);
  apply_linear(head.linear, normed, out);
  return out;
}

std::vector<double> Model::cross_entropy(const Head& head, const Matrix& x,
                                         std::span<const int32_t> targets) const {
  const auto rows = [&](std::span<const int64_t> indexes) {
    Matrix out(std::ssize(indexes), x.cols());
    for (int64_t i = 0; i < out.rows(); ++i) out.row(i) = x.row(indexes[i]);
    apply_norm(config(), head.norm, out, out);
    return out;
  };
  const auto logits = [&](const Matrix& inputs, int64_t first, MatrixRef out) {
    apply_linear_rows(head.linear, inputs, first, out);
  };
  return nibble::cross_entropy(config().vocabulary_size, targets, rows, logits);
}

}  // namespace nibble
