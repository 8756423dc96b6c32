#include "src/model/device_weights.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "kernels/cuda/fragment_linear.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/model/layout.h"
#include "src/model/make_block.h"
#include "src/model/model.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kMostHeadColumns = 128;

// One row of values in 16 bits.
void round_row(std::span<const float> row, Dtype type, std::span<uint16_t> out,
               const std::string& module) {
  const RoundingLoss loss = from_float(row, type, std::as_writable_bytes(out));
  if (loss.overflowed == 0) return;
  throw Error(module, "weights outside the range of " + std::string(dtype_name(type)),
              "--device cpu computes in float");
}

// weights [N, K].
std::vector<uint16_t> dense_rows(ConstMatrixRef weights, int64_t columns, Dtype type,
                                 const std::string& module) {
  std::vector<uint16_t> result(static_cast<size_t>(weights.rows() * columns));
  for (int64_t n = 0; n < weights.rows(); ++n) {
    const auto K = static_cast<size_t>(weights.cols());
    round_row({weights.row(n).data(), K}, type,
              std::span(result).subspan(static_cast<size_t>(n * columns), K), module);
  }
  return result;
}

// Those of a layer that is stored dense.
std::vector<uint16_t> stored_rows(const Model& model, const LinearModule& module, int64_t columns,
                                  Dtype type) {
  const Tensor tensor = model.checkpoint().tensor(module.weight);
  if (tensor.dtype() != type || module.transposed || columns != module.K) {
    return dense_rows(load_weight(model.checkpoint(), model.layout(), module), columns, type,
                      module.name);
  }
  std::vector<uint16_t> result(static_cast<size_t>(module.N * columns));
  std::memcpy(result.data(), tensor.bytes().data(), tensor.bytes().size());
  model.checkpoint().release(module.weight);
  return result;
}

LinearWeights load_linear_weights(const Model& model, const LinearModule& module, Dtype type) {
  const Checkpoint& checkpoint = model.checkpoint();
  LinearWeights linear;
  linear.module = module;
  if (!module.bias.empty()) {
    const std::vector<float> bias = load_floats(checkpoint, module.bias);
    linear.bias.resize(bias.size());
    round_row(bias, type, linear.bias, module.name);
  }
  if (module.quantized_tensors.empty()) {
    linear.dense = stored_rows(model, module, linear.columns(), type);
    return linear;
  }
  const QuantizedLinear q =
      model.layout().format->decode(checkpoint, module.name, module.N, module.K);
  for (const std::string& tensor : module.quantized_tensors) checkpoint.release(tensor);
  const bool is_head = module.input == InputGroup::kOutputHead;
  const std::string refusal = is_head ? "an output head" : fragment_refusal(q);
  if (refusal.empty()) {
    linear.packed = pack_fragments(q, module.name);
  } else if (!q.scheme.activations) {
    linear.dense = dense_rows(dequantize(q), linear.columns(), type, module.name);
  } else {
    throw Error(module.name, describe(q.scheme) + " on the GPU: " + refusal,
                "--device cpu runs it");
  }
  return linear;
}

int64_t bytes_of(const NormWeights& norm) { return 4 * (norm.weight.size() + norm.bias.size()); }

}  // namespace

int64_t LinearWeights::bytes() const {
  return std::ssize(dense) * 2 + std::ssize(bias) * 2 + (packed ? packed->bytes() : 0);
}

int64_t BlockWeights::bytes() const {
  int64_t sum = bytes_of(attention_norm) + bytes_of(mlp_norm) + bytes_of(query_norm) +
                bytes_of(key_norm) + attention_output.bytes() + down.bytes();
  for (const LinearWeights& linear : attention) sum += linear.bytes();
  for (const LinearWeights& linear : mlp) sum += linear.bytes();
  return sum;
}

void check_device_sizes(const Config& config, const std::string& where) {
  const auto check = [&](int64_t value, const char* name) {
    if (value % kDenseColumns == 0) return;
    throw Error(where, std::string(name) + " of " + std::to_string(value) + " on the GPU",
                "multiples of 8 can be; --device cpu takes any");
  };
  check(config.hidden_size, "a hidden size");
  check(config.intermediate_size, "an intermediate size");
  check(config.head_size, "a head size");
  if (config.head_size > kMostHeadColumns) {
    throw Error(where, "a head size of " + std::to_string(config.head_size) + " on the GPU",
                "up to 128 can be; --device cpu takes any");
  }
}

BlockWeights load_block_weights(const Model& model, int64_t index, Dtype type) {
  return make_block<BlockWeights>(
      model.checkpoint(), model.layout(), index,
      [&](const LinearModule& module) { return load_linear_weights(model, module, type); });
}

LinearWeights load_head_weights(const Model& model, Dtype type) {
  const ModelLayout& layout = model.layout();
  if (layout.head) return load_linear_weights(model, layout.linears[*layout.head], type);
  LinearModule tied;
  tied.name = layout.embedding;
  tied.weight = layout.embedding;
  tied.N = model.config().vocabulary_size;
  tied.K = model.config().hidden_size;
  tied.roles = {Role::kOutputHead};
  tied.input = InputGroup::kOutputHead;
  return load_linear_weights(model, tied, type);
}

}  // namespace nibble
