// compressed-tensors "float-quantized" (FP8), "nvfp4-pack-quantized" and "mxfp4-pack-quantized".
// Page: formats/compressed_tensors.md.
#include <cstdint>
#include <initializer_list>
#include <string>
#include <tuple>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/compressed_tensors.h"
#include "formats/format.h"
#include "formats/module_tensors.h"
#include "formats/packing/float4.h"
#include "formats/packing/packing.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr std::initializer_list<Dtype> kWide = {Dtype::kF16, Dtype::kBF16, Dtype::kF32};

bool has_stored_input(const Scheme& scheme) {
  return scheme.activations && !scheme.activations->dynamic;
}

// ---- float-quantized ----------------------------------------------------------------------------

Shape fp8_scale_shape(const Blocking& blocking, int64_t N, int64_t K) {
  if (blocking.rows == kAll && blocking.columns == kAll) return {1};
  return {divide_up(N, blocking.rows), group_count(blocking, K)};
}

std::string fp8_refusal(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  const Blocking& blocking = scheme.blocking;
  const bool whole = blocking.columns == kAll && (blocking.rows == 1 || blocking.rows == kAll);
  if (!whole && (blocking.rows < 1 || blocking.columns < 1)) {
    return "FP8 has scales of rows, blocks or the tensor, not " + describe(scheme);
  }
  const Dtype type = scheme.scale->type;
  if (type != Dtype::kF16 && type != Dtype::kBF16 && type != Dtype::kF32) {
    return "scales are F16, BF16 or F32, not " + std::string(dtype_name(type));
  }
  if (scheme.activations && (!scheme.activations->is_float || scheme.activations->bits != 8)) {
    return "with FP8 weights activations are FP8";
  }
  return module.has_column_groups ? "FP8 has no act-order" : "";
}

std::vector<TensorInfo> fp8_layout(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  std::vector<TensorInfo> tensors = {
      {module.name + ".weight", Dtype::kF8E4M3, {module.N, module.K}},
      {module.name + ".weight_scale", scheme.scale->type,
       fp8_scale_shape(scheme.blocking, module.N, module.K)}};
  if (has_stored_input(scheme)) {
    tensors.push_back({module.name + ".input_scale", module.input_scale_type, {1}});
  }
  return tensors;
}

std::vector<NamedTensor> fp8_encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const std::vector<TensorInfo> infos = fp8_layout(module);
  std::vector<NamedTensor> tensors = {
      {infos[0].name, reinterpreted(q.codes, Dtype::kF8E4M3, infos[0].shape)},
      {infos[1].name, reshaped(q.scale.values, infos[1].shape)}};
  if (infos.size() > 2) tensors.push_back({infos[2].name, q.input_scale});
  return tensors;
}

std::vector<std::string> fp8_tensors(const Checkpoint& checkpoint, const std::string& module) {
  const std::string weight = module + ".weight";
  if (!checkpoint.has(weight) || checkpoint.info(weight).info.dtype != Dtype::kF8E4M3) return {};
  std::vector<std::string> names = {weight};
  for (const char* suffix : {".weight_scale", ".input_scale"}) {
    if (checkpoint.has(module + suffix)) names.push_back(module + suffix);
  }
  return names;
}

QuantizedLinear fp8_decode(const Checkpoint& checkpoint, const std::string& module,
                           const CompressedArguments& arguments, int64_t N, int64_t K) {
  QuantizedLinear q;
  q.N = N;
  q.K = K;
  const std::string scale = module + ".weight_scale";
  q.scale.values =
      arguments.per_tensor()
          ? checked_scalar(checkpoint, scale, kWide)
          : checked_tensor(checkpoint, scale, kWide, fp8_scale_shape(arguments.blocking, N, K));
  q.scheme = fp8_scheme(arguments.blocking, q.scale.values.dtype());
  q.scheme.activations = arguments.activations;
  q.codes = reinterpreted(checked_tensor(checkpoint, module + ".weight", {Dtype::kF8E4M3}, {N, K}),
                          Dtype::kU8, {N, K});
  if (has_stored_input(q.scheme)) {
    q.input_scale = checked_scalar(checkpoint, module + ".input_scale", kWide);
  }
  check(q, checkpoint.folder().string() + ": " + module);
  return q;
}

// ---- nvfp4-pack-quantized, mxfp4-pack-quantized -------------------------------------------------

std::string packed_refusal(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  const int64_t group = scheme.blocking.columns;
  if (module.K % group != 0) {
    return "K = " + std::to_string(module.K) + " is not a multiple of the group size " +
           std::to_string(group);
  }
  if (module.has_column_groups) return "FP4 has no act-order";
  if (scheme.scale->second && !scheme.scale->second->divides) {
    return "its second-level scale divides, this one multiplies, and the inverse is rounded";
  }
  if (!scheme.activations) return {};
  const ActivationScheme& activations = *scheme.activations;
  if (!activations.is_float) return "with FP4 weights activations are floats";
  const bool is_nvfp4 = scheme.scale->second.has_value();
  const bool has_nvfp4 = activations.bits == 4 && !activations.dynamic;
  if (is_nvfp4 != has_nvfp4 || (is_nvfp4 && !activations.divides)) {
    return std::string(is_nvfp4 ? "NVFP4" : "MXFP4") + " weights have no " + describe(activations);
  }
  return {};
}

std::vector<TensorInfo> packed_layout(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  const auto& [name, N, K] = std::tie(module.name, module.N, module.K);
  const Shape scales = {N, K / scheme.blocking.columns};
  std::vector<TensorInfo> tensors = {{name + ".weight_packed", Dtype::kU8, {N, K / 2}}};
  if (!scheme.scale->second) {
    tensors.push_back({name + ".weight_scale", Dtype::kU8, scales});
    return tensors;
  }
  tensors.push_back({name + ".weight_scale", Dtype::kF8E4M3, scales});
  tensors.push_back({name + ".weight_global_scale", Dtype::kF32, {1}});
  if (has_stored_input(scheme)) {
    tensors.push_back({name + ".input_global_scale", module.input_scale_type, {1}});
  }
  return tensors;
}

std::vector<NamedTensor> packed_encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const std::vector<TensorInfo> infos = packed_layout(module);
  std::vector<NamedTensor> tensors = {
      {infos[0].name, packed<Float4Codes>(q.codes, q.N, q.K, Dtype::kU8, infos[0].shape)},
      {infos[1].name, reinterpreted(q.scale.values, infos[1].dtype, infos[1].shape)}};
  if (infos.size() > 2) tensors.push_back({infos[2].name, reshaped(q.scale.second, {1})});
  if (infos.size() > 3) tensors.push_back({infos[3].name, q.input_scale});
  return tensors;
}

std::vector<std::string> packed_tensors(const Checkpoint& checkpoint, const std::string& module) {
  const std::string packed = module + ".weight_packed";
  if (!checkpoint.has(packed) || checkpoint.info(packed).info.dtype != Dtype::kU8) return {};
  return present_tensors(checkpoint, module, {"weight_packed", "weight_scale"},
                         {"weight_global_scale", "input_global_scale"});
}

// Codes, scales [N, K / group] of one of the types, and the sizes.
QuantizedLinear packed_layer(const Checkpoint& checkpoint, const std::string& module,
                             const Scheme& scheme, std::initializer_list<Dtype> scale_types,
                             const Shape& shape) {
  QuantizedLinear q;
  q.N = shape[0];
  q.K = shape[1];
  q.scheme = scheme;
  const int64_t group = scheme.blocking.columns;
  if (q.K % group != 0) {
    throw Error(where_of_config(checkpoint), "group_size " + std::to_string(group) +
                                                 " does not divide K = " + std::to_string(q.K) +
                                                 " of '" + module + "'");
  }
  q.codes = unpacked<Float4Codes>(
      checked_tensor(checkpoint, module + ".weight_packed", {Dtype::kU8}, {q.N, q.K / 2}), q.N,
      q.K);
  const Shape scales = {q.N, q.K / group};
  q.scale.values =
      reinterpreted(checked_tensor(checkpoint, module + ".weight_scale", scale_types, scales),
                    scheme.scale->type, scales);
  return q;
}

QuantizedLinear nvfp4_decode(const Checkpoint& checkpoint, const std::string& module,
                             const CompressedArguments& arguments, int64_t N, int64_t K) {
  QuantizedLinear q =
      packed_layer(checkpoint, module, nvfp4_scheme(true), {Dtype::kF8E4M3}, {N, K});
  q.scale.second = checked_scalar(checkpoint, module + ".weight_global_scale", {Dtype::kF32});
  q.scheme.activations = arguments.activations;
  if (has_stored_input(q.scheme)) {
    q.input_scale = checked_scalar(checkpoint, module + ".input_global_scale", {Dtype::kF32});
  }
  check(q, checkpoint.folder().string() + ": " + module);
  return q;
}

QuantizedLinear mxfp4_decode(const Checkpoint& checkpoint, const std::string& module,
                             const CompressedArguments& arguments, int64_t N, int64_t K) {
  QuantizedLinear q =
      packed_layer(checkpoint, module, mxfp4_scheme(), {Dtype::kU8, Dtype::kF8E8M0}, {N, K});
  q.scheme.activations = arguments.activations;
  check(q, checkpoint.folder().string() + ": " + module);
  return q;
}

}  // namespace

const CompressedMember kFloatQuantized = {.name = "float-quantized",
                                          .is_float = true,
                                          .refusal = fp8_refusal,
                                          .layout = fp8_layout,
                                          .encode = fp8_encode,
                                          .tensors_of = fp8_tensors,
                                          .decode = fp8_decode};

const CompressedMember kNvfp4Packed = {.name = "nvfp4-pack-quantized",
                                       .is_float = true,
                                       .refusal = packed_refusal,
                                       .layout = packed_layout,
                                       .encode = packed_encode,
                                       .tensors_of = packed_tensors,
                                       .decode = nvfp4_decode};

const CompressedMember kMxfp4Packed = {.name = "mxfp4-pack-quantized",
                                       .is_float = true,
                                       .refusal = packed_refusal,
                                       .layout = packed_layout,
                                       .encode = packed_encode,
                                       .tensors_of = packed_tensors,
                                       .decode = mxfp4_decode};

}  // namespace nibble
