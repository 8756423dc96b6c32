// GGUF's blocks as tensors of a checkpoint: "<module>.weight.<type>", U8 [N, bytes of a row], as
// src/model/open_checkpoint.h presents a file. Page: formats/gguf.md.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config_fields.h"
#include "formats/format.h"
#include "formats/format_rows.h"
#include "formats/gguf/blocks.h"
#include "formats/gguf/types.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble::gguf_format {
namespace {

constexpr const char* kMethod = "gguf";

std::string tensor_name(const std::string& module, std::string_view type) {
  return module + ".weight." + std::string(type);
}

Dtype scale_type(Dtype /*model_dtype*/) { return Dtype::kF16; }

std::string refusal(const FormatModule& module) {
  const GgmlScheme* row = ggml_scheme(scheme_of(module));
  if (module.has_column_groups) return "blocks are neighbouring columns; there is no act-order";
  std::string fitting;
  for (const GgmlScheme& other : ggml_schemes()) {
    if (module.K % other.block == 0) fitting.append(fitting.empty() ? "" : ", ").append(other.name);
  }
  if (row == nullptr) {
    return "the types are " + fitting + "; " + describe(scheme_of(module)) + " is none of them";
  }
  if (module.K % row->block == 0) return {};
  return "rows of " + std::to_string(module.K) + " weights are no multiple of " +
         std::string(row->name) + "'s blocks of " + std::to_string(row->block) +
         (fitting.empty() ? "; no type fits" : "; these fit: " + fitting);
}

std::string caution(const FormatModule& /*module*/) { return {}; }

const GgufType& type_of(const FormatModule& module) {
  const GgufType* type = block_type(scheme_of(module), module.K);
  if (type == nullptr) throw Error(module.name, refusal(module));
  return *type;
}

std::vector<TensorInfo> layout(const FormatModule& module) {
  const GgufType& type = type_of(module);
  return {{tensor_name(module.name, type.name),
           Dtype::kU8,
           {module.N, module.K / type.block * type.block_bytes}}};
}

std::vector<NamedTensor> encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const GgufType& type = type_of(module);
  return {{tensor_name(module.name, type.name), encode_blocks(type, q, module.name)}};
}

Json config(std::span<const FormatModule> /*modules*/) { return {{"quant_method", kMethod}}; }

bool recognizes(const Json& config) { return lower_name(config, "quant_method") == kMethod; }

std::vector<std::string> tensors_of(const Checkpoint& checkpoint, const std::string& module) {
  for (const GgmlScheme& row : ggml_schemes()) {
    if (checkpoint.has(tensor_name(module, row.name))) {
      const std::string suffix = std::string("weight.").append(row.name);
      return present_tensors(checkpoint, module, {suffix}, {});
    }
  }
  return {};
}

QuantizedLinear decode(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                       int64_t K) {
  const std::vector<std::string> names = tensors_of(checkpoint, module);
  if (names.empty()) {
    throw Error(checkpoint.folder().string() + ": " + module, "no blocks of a known type");
  }
  const std::string& name = names.front();
  const GgufType& type = *gguf_type(std::string_view(name).substr(tensor_name(module, "").size()));
  const Tensor blocks =
      checked_tensor(checkpoint, name, {Dtype::kU8}, {N, K / type.block * type.block_bytes});
  return decode_blocks(type, blocks.bytes(), N, K, where_of(checkpoint, name));
}

}  // namespace

const Format kFormat = {
    .name = kMethod,
    .summary = "llama.cpp's single file: model, tokenizer and metadata",
    .holds = "q8_0, q6_k, q5_0, q5_1, q5_k, q4_0, q4_1, q4_k, iq4_nl, iq4_xs, mxfp4, q3_k, q2_k",
    .readers = "llama.cpp and the programs built on it",
    .config_file = {},
    .scale_type = scale_type,
    .refusal = refusal,
    .caution = caution,
    .layout = layout,
    .encode = encode,
    .config = config,
    .recognizes = recognizes,
    .tensors_of = tensors_of,
    .decode = decode,
};

}  // namespace nibble::gguf_format
