// Weights as a device takes them, still in host memory: what is read, decoded and packed while the
// device computes. The forward pass there is src/model/device_forward.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/fragment_linear.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/model/layout.h"
#include "src/model/model.h"
#include "src/tensor/dtype.h"

namespace nibble {

// Columns of rows of 16-bit weights are padded to a multiple of this.
inline constexpr int64_t kDenseColumns = 8;

struct LinearWeights {
  LinearModule module;
  std::optional<FragmentLinear> packed;
  std::vector<uint16_t> dense;  // [N, columns()] without `packed`; padding is 0
  std::vector<uint16_t> bias;   // [N], or empty

  int64_t columns() const { return (module.K + kDenseColumns - 1) / kDenseColumns * kDenseColumns; }
  int64_t bytes() const;
};

struct BlockWeights {
  NormWeights attention_norm, mlp_norm, query_norm, key_norm;
  std::vector<LinearWeights> attention;  // q, k, v in any stacking
  LinearWeights attention_output;
  std::vector<LinearWeights> mlp;  // gate and up, or up
  LinearWeights down;

  int64_t bytes() const;
};

// Throws Error(where, ...) for a model whose forward pass the device's kernels do not have: heads
// of more than 128 columns, or sizes that are no multiples of 8.
void check_device_sizes(const Config& config, const std::string& where);

// type: F16 or BF16, of the activations; dense weights and biases are rounded to it. Quantized
// weights that have no packing there are multiplied out. Throws Error naming the module for
// quantized activations without integer kernels and for weights outside the type's range.
BlockWeights load_block_weights(const Model& model, int64_t index, Dtype type);
// The output head, always dense.
LinearWeights load_head_weights(const Model& model, Dtype type);

}  // namespace nibble
