// FP8 checkpoints of quant_method "fp8" (DeepSeek-V3, Qwen3-FP8) and "fbgemm_fp8". Page:
// formats/fp8.md.
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config_fields.h"
#include "formats/format.h"
#include "formats/format_rows.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "formats/packing/packing.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble::fp8_format {
namespace {

constexpr std::string_view kMethod = "fp8";
constexpr std::string_view kFbgemm = "fbgemm_fp8";
constexpr std::initializer_list<Dtype> kWide = {Dtype::kF32, Dtype::kBF16, Dtype::kF16};
constexpr std::initializer_list<Dtype> kScales = {Dtype::kF32, Dtype::kBF16, Dtype::kF16,
                                                  Dtype::kF8E8M0};

Dtype scale_type(Dtype /*model_dtype*/) { return Dtype::kF32; }

bool is_per_tensor(const Scheme& scheme) { return scheme.blocking.rows == kAll; }

// What a loader does to activations: nothing of it is stored but a static scale.
ActivationScheme inputs_of(const Blocking& blocking, bool is_static) {
  if (is_static) return {.dynamic = false, .per_token = false, .is_float = true};
  return {.is_float = true, .columns = blocking.columns};
}

Shape block_scales(const Blocking& blocking, int64_t N, int64_t K) {
  return {divide_up(N, blocking.rows), divide_up(K, blocking.columns)};
}

// ---- writing ------------------------------------------------------------------------------------

std::string refusal(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  if (!is_fp8(scheme)) return "it holds FP8, not " + describe(scheme);
  const Blocking& blocking = scheme.blocking;
  const bool has_blocks = blocking.rows > 0 && blocking.columns > 0;
  if (!has_blocks && blocking != Blocking{.rows = kAll, .columns = kAll}) {
    return "it holds blocks of rows and columns, or one scale, not " + describe(scheme);
  }
  if (scheme.scale->type != Dtype::kF32) {
    return "it stores scales as F32, not " + std::string(dtype_name(scheme.scale->type));
  }
  if (module.has_column_groups) return "it has no column groups (act-order)";
  if (!scheme.activations) return "its loaders quantize activations to FP8 too";
  const bool is_static = !has_blocks && !scheme.activations->dynamic;
  if (*scheme.activations != inputs_of(blocking, is_static)) {
    return "its loaders have no " + describe(*scheme.activations) + " with " + describe(scheme);
  }
  return {};
}

std::string caution(const FormatModule& module) {
  const bool has_ragged_blocks =
      !is_per_tensor(scheme_of(module)) && (module.N % scheme_of(module).blocking.rows != 0 ||
                                            module.K % scheme_of(module).blocking.columns != 0);
  if (has_ragged_blocks) return "transformers reads only sizes that are multiples of a block";
  return module.transposed ? "transformers does not load it into Conv1D layers" : "";
}

std::vector<TensorInfo> layout(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  std::vector<TensorInfo> tensors = {
      {module.name + ".weight", Dtype::kF8E4M3, {module.N, module.K}}};
  if (is_per_tensor(scheme)) {
    tensors.push_back({module.name + ".weight_scale", Dtype::kF32, {1}});
  } else {
    tensors.push_back({module.name + ".weight_scale_inv", Dtype::kF32,
                       block_scales(scheme.blocking, module.N, module.K)});
  }
  if (!scheme.activations->dynamic) {
    tensors.push_back({module.name + ".input_scale", module.input_scale_type, {1}});
  }
  return tensors;
}

std::vector<NamedTensor> encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const std::vector<TensorInfo> infos = layout(module);
  std::vector<NamedTensor> tensors = {
      {infos[0].name, reinterpreted(q.codes, Dtype::kF8E4M3, infos[0].shape)},
      {infos[1].name, reshaped(q.scale.values, infos[1].shape)}};
  if (infos.size() > 2) tensors.push_back({infos[2].name, q.input_scale});
  return tensors;
}

Json config(std::span<const FormatModule> modules) {
  std::optional<Scheme> scheme;
  for (const FormatModule& module : modules) {
    if (!module.scheme) continue;
    if (scheme && *scheme != *module.scheme) {
      throw Error(module.name, "fp8 has one scheme for a model, not " + describe(*scheme) +
                                   " and " + describe(*module.scheme));
    }
    scheme = module.scheme;
  }
  Json config;
  config["quant_method"] = kMethod;
  config["fmt"] = "e4m3";
  config["activation_scheme"] = scheme && !scheme->activations->dynamic ? "static" : "dynamic";
  if (scheme && !is_per_tensor(*scheme)) {
    config["weight_block_size"] = {scheme->blocking.rows, scheme->blocking.columns};
  }
  config["modules_to_not_convert"] = left_out(modules);
  return config;
}

// ---- reading ------------------------------------------------------------------------------------

bool recognizes(const Json& config) {
  const std::string method = lower_name(config, "quant_method");
  return method == kMethod || method == kFbgemm;
}

std::vector<std::string> tensors_of(const Checkpoint& checkpoint, const std::string& module) {
  return tensors_with_weight(checkpoint, module, {Dtype::kF8E4M3},
                             {"weight_scale_inv", "weight_scale", "input_scale", "input_scale_ub"});
}

std::optional<Blocking> block_size(const Json& config, const std::string& where) {
  const auto block = block_field(config, "weight_block_size", where);
  if (!block) return std::nullopt;
  return Blocking{.rows = block->front(), .columns = block->back()};
}

bool has_static_inputs(const Json& config, const std::string& where) {
  const std::string scheme = string_field(config, "activation_scheme", where).value_or("dynamic");
  if (scheme == "static" || scheme == "dynamic") return scheme == "static";
  throw Error(where, "'activation_scheme' is '" + scheme + "', expected dynamic or static");
}

// Blocks by the config; else one scale, or one for every row, by its shape.
void read_scales(const Checkpoint& checkpoint, const std::string& module, QuantizedLinear& q) {
  const std::string inverse = module + ".weight_scale_inv";
  const std::string name = checkpoint.has(inverse) ? inverse : module + ".weight_scale";
  const std::optional<Blocking> blocks =
      block_size(checkpoint.quantization_config(), where_of_config(checkpoint));
  Blocking blocking = blocks.value_or(Blocking{.rows = kAll, .columns = kAll});
  const Shape& shape = checkpoint.info(name).info.shape;
  if (blocks) {
    q.scale.values = checked_tensor(checkpoint, name, kScales, block_scales(blocking, q.N, q.K));
  } else if (shape == Shape{q.N} || shape == Shape{q.N, 1}) {
    blocking = {};
    q.scale.values = checked_tensor(checkpoint, name, kScales, shape);
  } else {
    q.scale.values = checked_scalar(checkpoint, name, kScales);
  }
  q.scheme = fp8_scheme(blocking, q.scale.values.dtype());
}

QuantizedLinear decode(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                       int64_t K) {
  const std::string where = where_of_config(checkpoint);
  QuantizedLinear q;
  q.N = N;
  q.K = K;
  q.codes = reinterpreted(checked_tensor(checkpoint, module + ".weight", {Dtype::kF8E4M3}, {N, K}),
                          Dtype::kU8, {N, K});
  read_scales(checkpoint, module, q);
  const bool is_static = has_static_inputs(checkpoint.quantization_config(), where);
  q.scheme.activations = inputs_of(q.scheme.blocking, is_static);
  if (is_static) {
    q.input_scale = checked_scalar(checkpoint, module + ".input_scale", kWide);
  }
  check(q, checkpoint.folder().string() + ": " + module);
  return q;
}

}  // namespace

const Format kFormat = {
    .name = kMethod,
    .summary = "FP8 as DeepSeek-V3 and Qwen3 publish it",
    .holds = "FP8 in blocks of 128 x 128 or with one scale; read: also by channel (fbgemm_fp8)",
    .readers = "vLLM, SGLang, transformers",
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

}  // namespace nibble::fp8_format
