// AWQ checkpoints: version "gemm". Page: formats/awq.md.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "formats/awq.h"
#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/format_rows.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "formats/packing/awq.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"

namespace nibble::awq_gemm_format {
namespace {

Dtype scale_type(Dtype /*model_dtype*/) { return Dtype::kF16; }

std::string caution(const FormatModule& module) {
  const int64_t columns = scheme_of(module).blocking.columns;
  if (columns != kAll && columns != 16 && columns != 32 && columns != 64 && columns != 128) {
    return "GPTQModel, through which transformers loads it, knows groups of 16, 32, 64, 128 and "
           "whole rows";
  }
  return {};
}

std::vector<TensorInfo> layout(const FormatModule& module) {
  const auto [name, N, K] = std::tie(module.name, module.N, module.K);
  const int64_t groups = K / columns_of_group(module);
  return {{name + ".qweight", Dtype::kI32, {K, N / 8}},
          {name + ".qzeros", Dtype::kI32, {groups, N / 8}},
          {name + ".scales", Dtype::kF16, {groups, N}}};
}

std::vector<NamedTensor> encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const int64_t groups = q.K / columns_of_group(module);
  const std::vector<TensorInfo> infos = layout(module);
  const Tensor zeros = awq_zeros(q, groups);
  return {{infos[0].name, packed<AwqCodes>(q.codes, q.N, q.K, Dtype::kI32, infos[0].shape)},
          {infos[1].name, packed<AwqCodes>(zeros, q.N, groups, Dtype::kI32, infos[1].shape)},
          {infos[2].name, transposed(reshaped(q.scale.values, {q.N, groups}))}};
}

Json config(std::span<const FormatModule> modules) {
  return awq_config(modules, "version", "gemm");
}

bool recognizes(const Json& config) { return awq_version(config) == "gemm"; }

std::vector<std::string> tensors_of(const Checkpoint& checkpoint, const std::string& module) {
  return present_tensors(checkpoint, module, {"qweight", "qzeros", "scales"}, {});
}

QuantizedLinear decode(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                       int64_t K) {
  const AwqGroups groups = awq_groups(checkpoint, module, N, K);
  QuantizedLinear q;
  q.N = N;
  q.K = K;
  q.codes = unpacked<AwqCodes>(
      checked_tensor(checkpoint, module + ".qweight", {Dtype::kI32}, {K, N / 8}), N, K);
  q.zero.values = unpacked<AwqCodes>(
      checked_tensor(checkpoint, module + ".qzeros", {Dtype::kI32}, {groups.count, N / 8}), N,
      groups.count);
  q.scale.values = transposed(checked_tensor(
      checkpoint, module + ".scales", {Dtype::kF16, Dtype::kBF16, Dtype::kF32}, {groups.count, N}));
  return awq_layer(std::move(q), groups, checkpoint.folder().string() + ": " + module);
}

}  // namespace

const Format kFormat = {
    .name = "awq",
    .summary = "AutoAWQ's checkpoints, version gemm",
    .holds = "integers of 4 bits by group or channel",
    .readers = "vLLM, SGLang, transformers with GPTQModel, AutoAWQ",
    .config_file = {},
    .scale_type = scale_type,
    .refusal = awq_refusal,
    .caution = caution,
    .layout = layout,
    .encode = encode,
    .config = config,
    .recognizes = recognizes,
    .tensors_of = tensors_of,
    .decode = decode,
    .contradictions = awq_contradictions,
};

}  // namespace nibble::awq_gemm_format
