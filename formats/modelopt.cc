// Checkpoints of NVIDIA's ModelOpt: NVFP4 and FP8. Page: formats/modelopt.md.
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config_fields.h"
#include "formats/format.h"
#include "formats/format_rows.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "formats/packing/float4.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble::modelopt_format {
namespace {

constexpr std::string_view kMethod = "modelopt";
constexpr std::initializer_list<Dtype> kWide = {Dtype::kF32, Dtype::kBF16, Dtype::kF16};

constexpr ActivationScheme kFp8Inputs = {.dynamic = false, .per_token = false, .is_float = true};
constexpr ActivationScheme kNvfp4Inputs = {
    .bits = 4, .dynamic = false, .is_float = true, .columns = kNvfp4Group};

Dtype scale_type(Dtype /*model_dtype*/) { return Dtype::kF32; }

// ---- writing ------------------------------------------------------------------------------------

Scheme stored_scheme(bool is_nvfp4) {
  Scheme scheme =
      is_nvfp4 ? nvfp4_scheme(false) : fp8_scheme({.rows = kAll, .columns = kAll}, Dtype::kF32);
  scheme.activations = is_nvfp4 ? kNvfp4Inputs : kFp8Inputs;
  return scheme;
}

std::string refusal(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  const bool is_fp4 = is_nvfp4(scheme);
  if (!is_fp4 && !is_fp8(scheme)) return "it holds NVFP4 and FP8, not " + describe(scheme);
  if (!scheme.activations) {
    return "its loaders quantize activations too, by scales that it stores: choose the scheme " +
           std::string(is_fp4 ? "nvfp4" : "fp8") + ", or the format compressed-tensors";
  }
  if (is_fp4 && scheme.scale->second->divides) {
    return "its second-level scale multiplies, this one divides, and the inverse is rounded";
  }
  if (scheme != stored_scheme(is_fp4)) {
    return "it holds " + describe(stored_scheme(is_fp4)) + ", scales in F32, not " +
           describe(scheme);
  }
  if (module.has_column_groups) return "it has no column groups (act-order)";
  if (is_fp4 && module.K % kNvfp4Group != 0) {
    return "K = " + std::to_string(module.K) + " is not a multiple of the group size 16";
  }
  return {};
}

std::string caution(const FormatModule& module) {
  return module.transposed ? "no loader has Conv1D layers" : "";
}

std::vector<TensorInfo> layout(const FormatModule& module) {
  const std::string& name = module.name;
  const auto [N, K] = std::pair(module.N, module.K);
  if (!is_nvfp4(scheme_of(module))) {
    return {{name + ".weight", Dtype::kF8E4M3, {N, K}},
            {name + ".weight_scale", Dtype::kF32, {}},
            {name + ".input_scale", Dtype::kF32, {}}};
  }
  return {{name + ".weight", Dtype::kU8, {N, K / 2}},
          {name + ".weight_scale", Dtype::kF8E4M3, {N, K / kNvfp4Group}},
          {name + ".weight_scale_2", Dtype::kF32, {}},
          {name + ".input_scale", Dtype::kF32, {}}};
}

std::vector<NamedTensor> encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const std::vector<TensorInfo> infos = layout(module);
  const Tensor input_scale = reshaped(q.input_scale, {});
  if (!is_nvfp4(q.scheme)) {
    return {{infos[0].name, reinterpreted(q.codes, Dtype::kF8E4M3, infos[0].shape)},
            {infos[1].name, reshaped(q.scale.values, {})},
            {infos[2].name, input_scale}};
  }
  return {{infos[0].name, packed<Float4Codes>(q.codes, q.N, q.K, Dtype::kU8, infos[0].shape)},
          {infos[1].name, reshaped(q.scale.values, infos[1].shape)},
          {infos[2].name, reshaped(q.scale.second, {})},
          {infos[3].name, input_scale}};
}

// Both forms: TensorRT-LLM reads "quantization" in hf_quant_config.json, others what stands beside.
Json config(std::span<const FormatModule> modules) {
  std::optional<bool> all_nvfp4;
  for (const FormatModule& module : modules) {
    if (!module.scheme) continue;
    const bool is = is_nvfp4(*module.scheme);
    if (all_nvfp4.value_or(is) != is) {
      throw Error(module.name, "modelopt has one scheme for a model, not NVFP4 and FP8");
    }
    all_nvfp4 = is;
  }
  const Json ignore = left_out(modules);
  const bool is_fp4 = all_nvfp4.value_or(true);
  Json quantization;
  quantization["quant_algo"] = is_fp4 ? "NVFP4" : "FP8";
  quantization["kv_cache_quant_algo"] = nullptr;
  if (is_fp4) quantization["group_size"] = kNvfp4Group;
  quantization["exclude_modules"] = ignore;
  Json config;
  config["quant_method"] = kMethod;
  config["quant_algo"] = quantization["quant_algo"];
  if (is_fp4) config["group_size"] = kNvfp4Group;
  config["ignore"] = ignore;
  config["producer"] = {{"name", "nibble"}};
  config["quantization"] = std::move(quantization);
  return config;
}

// ---- reading ------------------------------------------------------------------------------------

// Lower-cased; of the object or of "quantization" in it.
std::string algorithm(const Json& config) {
  const auto nested = config.find("quantization");
  if (nested != config.end() && nested->is_object()) return lower_name(*nested, "quant_algo");
  return lower_name(config, "quant_algo");
}

bool recognizes(const Json& config) {
  const std::string method = lower_name(config, "quant_method");
  const auto producer = config.find("producer");
  const bool is_file = method.empty() && producer != config.end() && producer->is_object() &&
                       lower_name(*producer, "name") == kMethod;
  if (method != kMethod && method != "modelopt_fp4" && !is_file) return false;
  const std::string found = algorithm(config);
  return found == "nvfp4" || found == "fp8" || found == "fp8_per_channel_per_token";
}

// Scales of the key-value cache belong to the projections; they are not used.
std::vector<std::string> tensors_of(const Checkpoint& checkpoint, const std::string& module) {
  return tensors_with_weight(
      checkpoint, module, {Dtype::kU8, Dtype::kF8E4M3},
      {"weight_scale", "weight_scale_2", "input_scale", "k_scale", "v_scale"});
}

void read_nvfp4(const Checkpoint& checkpoint, const std::string& module, QuantizedLinear& q) {
  if (q.K % kNvfp4Group != 0) {
    throw Error(where_of(checkpoint, module + ".weight"),
                "K = " + std::to_string(q.K) + " is not a multiple of the group size 16");
  }
  q.scheme = nvfp4_scheme(false);
  q.codes = unpacked<Float4Codes>(
      checked_tensor(checkpoint, module + ".weight", {Dtype::kU8}, {q.N, q.K / 2}), q.N, q.K);
  q.scale.values = checked_tensor(checkpoint, module + ".weight_scale", {Dtype::kF8E4M3},
                                  {q.N, q.K / kNvfp4Group});
  q.scale.second = checked_scalar(checkpoint, module + ".weight_scale_2", {Dtype::kF32});
}

// One scale, or one a row.
void read_fp8(const Checkpoint& checkpoint, const std::string& module, QuantizedLinear& q) {
  const std::string name = module + ".weight_scale";
  const Shape& shape = checkpoint.info(name).info.shape;
  const bool by_row = shape == Shape{q.N} || shape == Shape{q.N, 1};
  q.scale.values = by_row ? checked_tensor(checkpoint, name, kWide, shape)
                          : checked_scalar(checkpoint, name, kWide);
  q.scheme = fp8_scheme(by_row ? Blocking{} : Blocking{.rows = kAll, .columns = kAll},
                        q.scale.values.dtype());
  q.codes =
      reinterpreted(checked_tensor(checkpoint, module + ".weight", {Dtype::kF8E4M3}, {q.N, q.K}),
                    Dtype::kU8, {q.N, q.K});
}

QuantizedLinear decode(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                       int64_t K) {
  QuantizedLinear q;
  q.N = N;
  q.K = K;
  const bool is_fp4 = checkpoint.info(module + ".weight").info.dtype == Dtype::kU8;
  is_fp4 ? read_nvfp4(checkpoint, module, q) : read_fp8(checkpoint, module, q);
  if (const std::string input = module + ".input_scale"; checkpoint.has(input)) {
    q.scheme.activations = is_fp4 ? kNvfp4Inputs : kFp8Inputs;
    q.input_scale = checked_scalar(checkpoint, input, kWide);
  } else if (algorithm(checkpoint.quantization_config()) == "fp8_per_channel_per_token") {
    q.scheme.activations = {.is_float = true};
  }
  check(q, checkpoint.folder().string() + ": " + module);
  return q;
}

}  // namespace

const Format kFormat = {
    .name = kMethod,
    .summary = "NVIDIA ModelOpt's checkpoints",
    .holds = "NVFP4 and FP8 with scales of activations; read: weights alone and FP8 by channel too",
    .readers = "vLLM, SGLang, TensorRT-LLM",
    .config_file = "hf_quant_config.json",
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

}  // namespace nibble::modelopt_format
