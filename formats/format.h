// Format: how one quantized linear layer becomes named tensors and back, and the configuration the
// ecosystem's loaders read. Rows of one table; each has its page formats/<name>.md.
//
// An encoder never searches and never rounds what it was given: what a format cannot hold exactly
// it refuses, with the reason.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/json.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/tensor.h"

namespace nibble {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

// A linear layer of a model as formats see it.
struct FormatModule {
  std::string name;  // module path: "model.layers.0.self_attn.q_proj"
  int64_t N = 0;
  int64_t K = 0;
  Dtype dtype =
      Dtype::kF16;  // of the weight as the checkpoint declares it (dense: as it is to be written)
  bool transposed = false;  // the model stores its dense weight as [K, N] (GPT-2's Conv1D)
  bool has_column_groups = false;
  Dtype codebook_type = Dtype::kF16;     // of QuantizedLinear::codebooks, where the scheme has them
  Dtype input_scale_type = Dtype::kF32;  // of QuantizedLinear::input_scale, likewise
  std::optional<Scheme> scheme;          // none: left as it is
};

struct Format {
  std::string_view name;
  std::string_view summary;  // for lists
  std::string_view holds;    // "4 and 8 bit integers, groups or channels"
  std::string_view readers;  // programs known to load it: "vLLM, transformers"
  // A file beside config.json that repeats quantization_config for some readers; empty: none.
  std::string_view config_file;

  // The stored type of scales for a model of this dtype.
  Dtype (*scale_type)(Dtype model_dtype);
  // Empty if the module's scheme can be held exactly, else the reason.
  std::string (*refusal)(const FormatModule& module);
  // Not empty if the module is held exactly but some of `readers` cannot load it: which, and why.
  std::string (*caution)(const FormatModule& module);
  // The tensors encode will return, same order; shapes depend on the module alone.
  std::vector<TensorInfo> (*layout)(const FormatModule& module);
  std::vector<NamedTensor> (*encode)(const FormatModule& module, const QuantizedLinear& q);
  // quantization_config for the whole model: every linear layer, quantized or not. Null Json: the
  // format needs none (dense). Throws Error when one configuration cannot describe the modules.
  Json (*config)(std::span<const FormatModule> modules);

  // Reading. recognizes: whether this quantization_config is this format's.
  bool (*recognizes)(const Json& quantization_config);
  // Whether the checkpoint holds this module quantized; the names of its tensors in the checkpoint
  // (without a bias), empty when it does not.
  std::vector<std::string> (*tensors_of)(const Checkpoint& checkpoint, const std::string& module);
  // Throws Error naming file and tensor for anything inconsistent. N and K come from the model's
  // configuration and are checked.
  QuantizedLinear (*decode)(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                            int64_t K);
  // What the configuration says of a module and its tensors do not bear out, though decode reads
  // them: a sentence each. q: the decoded module; null: it is stored dense. May throw Error. Null:
  // the configuration says no more than decode checks.
  std::vector<std::string> (*contradictions)(const Checkpoint& checkpoint,
                                             const std::string& module,
                                             const QuantizedLinear* q) = nullptr;
};

// In the order shown to users.
std::span<const Format> formats();
// Throws Error with the nearest name.
const Format& format(const std::string& name);
// The format of a quantized checkpoint; null when it has no quantization config. Throws Error
// naming the quant_method and format that we do not read.
const Format* format_of(const Checkpoint& checkpoint);

}  // namespace nibble
