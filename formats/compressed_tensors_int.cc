// compressed-tensors "int-quantized": 8-bit integers as they are, one a byte, for layers whose
// activations are quantized too. Page: formats/compressed_tensors.md.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/compressed_tensors.h"
#include "formats/format.h"
#include "formats/module_tensors.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int kHalf = 128;  // code = stored + 128

bool is_static(const Scheme& scheme) { return !scheme.activations->dynamic; }

Shape int_scale_shape(const FormatModule& module) {
  return scheme_of(module).blocking.rows == kAll ? Shape{1} : Shape{module.N, 1};
}

// Codes U8 and stored integers I8 differ in their highest bit; the same function both ways.
Tensor shifted(const Tensor& from, Dtype dtype, const Shape& shape) {
  Tensor to = Tensor::allocate(dtype, shape);
  const std::span<const std::byte> source = from.bytes();
  std::transform(source.begin(), source.end(), to.mutable_bytes().begin(),
                 [](std::byte value) { return value ^ std::byte{kHalf}; });
  return to;
}

std::string int_refusal(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  FormatModule weights = module;
  weights.scheme->activations.reset();
  if (std::string reason = integer_refusal(weights, true); !reason.empty()) return reason;
  if (scheme.grid.bits != 8) return "with quantized activations it holds 8 bits";
  if (scheme.blocking.rows == 1 && scheme.blocking.columns != kAll) {
    return "with quantized activations it holds channels or tensors, not groups";
  }
  if (!scheme.symmetric()) return "with quantized activations it holds symmetric weights";
  if (scheme.activations->is_float || scheme.activations->bits != 8) {
    return "activations are integers of 8 bits";
  }
  if (module.has_column_groups) return "with quantized activations it has no act-order";
  return {};
}

std::vector<TensorInfo> int_layout(const FormatModule& module) {
  std::vector<TensorInfo> tensors = {
      {module.name + ".weight", Dtype::kI8, {module.N, module.K}},
      {module.name + ".weight_scale", scale_type_of(module), int_scale_shape(module)}};
  if (!is_static(scheme_of(module))) return tensors;
  tensors.push_back({module.name + ".input_scale", module.input_scale_type, {1}});
  if (!scheme_of(module).activations->symmetric) {
    tensors.push_back({module.name + ".input_zero_point", Dtype::kI8, {1}});
  }
  return tensors;
}

std::vector<NamedTensor> int_encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const std::vector<TensorInfo> infos = int_layout(module);
  std::vector<NamedTensor> tensors = {{infos[0].name, shifted(q.codes, Dtype::kI8, infos[0].shape)},
                                      {infos[1].name, reshaped(q.scale.values, infos[1].shape)}};
  if (infos.size() > 2) tensors.push_back({infos[2].name, q.input_scale});
  if (infos.size() > 3) tensors.push_back({infos[3].name, q.input_zero});
  return tensors;
}

std::vector<std::string> int_tensors(const Checkpoint& checkpoint, const std::string& module) {
  const std::string weight = module + ".weight";
  if (!checkpoint.has(weight) || checkpoint.info(weight).info.dtype != Dtype::kI8) return {};
  std::vector<std::string> names = {weight};
  for (const char* suffix : {".weight_scale", ".input_scale", ".input_zero_point"}) {
    if (checkpoint.has(module + suffix)) names.push_back(module + suffix);
  }
  return names;
}

QuantizedLinear int_decode(const Checkpoint& checkpoint, const std::string& module,
                           const CompressedArguments& arguments, int64_t N, int64_t K) {
  const std::initializer_list<Dtype> floats = {Dtype::kF16, Dtype::kBF16, Dtype::kF32};
  if (!arguments.symmetric || arguments.blocking.columns != kAll) {
    throw Error(where_of_config(checkpoint),
                "int-quantized weights with zero points or groups are not read yet");
  }
  QuantizedLinear q;
  q.N = N;
  q.K = K;
  q.scale.values = checked_tensor(checkpoint, module + ".weight_scale", floats,
                                  arguments.per_tensor() ? Shape{1} : Shape{N, 1});
  q.scheme = integer_scheme(8, kAll, true, q.scale.values.dtype(), arguments.per_tensor());
  q.scheme.activations = arguments.activations;
  q.codes = shifted(checked_tensor(checkpoint, module + ".weight", {Dtype::kI8}, {N, K}),
                    Dtype::kU8, {N, K});
  if (arguments.activations && !arguments.activations->dynamic) {
    q.input_scale = checked_tensor(checkpoint, module + ".input_scale", floats, {1});
    if (!arguments.activations->symmetric) {
      q.input_zero = checked_tensor(checkpoint, module + ".input_zero_point", {Dtype::kI8}, {1});
    }
  }
  check(q, checkpoint.folder().string() + ": " + module);
  return q;
}

}  // namespace

const CompressedMember kIntQuantized = {.name = "int-quantized",
                                        .refusal = int_refusal,
                                        .layout = int_layout,
                                        .encode = int_encode,
                                        .tensors_of = int_tensors,
                                        .decode = int_decode};

}  // namespace nibble
