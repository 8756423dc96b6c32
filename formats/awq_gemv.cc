// AWQ checkpoints, version "gemv". Page: formats/awq_gemv.md.
#include <cstdint>
#include <span>
#include <string>
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
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"

namespace nibble::awq_gemv_format {
namespace {

constexpr const char* kVersion = "gemv";

Dtype scale_type(Dtype /*model_dtype*/) { return Dtype::kF16; }

std::string refusal(const FormatModule& module) {
  if (std::string reason = awq_refusal(module); !reason.empty()) return reason;
  if (module.K % 8 != 0) return "eight inputs a word: K = " + std::to_string(module.K);
  return awq_gemv_group_refusal(module);
}

std::string caution(const FormatModule& /*module*/) {
  return "its readers have CUDA kernels only, and transformers 5 none";
}

std::vector<TensorInfo> layout(const FormatModule& module) {
  const int64_t columns = columns_of_group(module);
  const int64_t width = awq_zeros_width(module.K / columns, columns);
  return {{module.name + ".qweight", Dtype::kI32, {module.N, module.K / 8}},
          {module.name + ".qzeros", Dtype::kI32, {module.N, width}},
          {module.name + ".scales", Dtype::kF16, {module.N, 8 * width}}};
}

std::vector<NamedTensor> encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const std::vector<TensorInfo> infos = layout(module);
  const int64_t groups = q.K / columns_of_group(module);
  const int64_t width = infos[2].shape[1];
  const Tensor zeros = with_columns(awq_zeros(q, groups), width);
  return {{infos[0].name, packed<AwqGemvCodes>(q.codes, q.N, q.K, Dtype::kI32, infos[0].shape)},
          {infos[1].name, packed<AwqGemvCodes>(zeros, q.N, width, Dtype::kI32, infos[1].shape)},
          {infos[2].name, with_columns(reshaped(q.scale.values, {q.N, groups}), width)}};
}

Json config(std::span<const FormatModule> modules) {
  return awq_config(modules, "version", kVersion);
}

bool recognizes(const Json& config) { return awq_version(config) == kVersion; }

std::vector<std::string> tensors_of(const Checkpoint& checkpoint, const std::string& module) {
  return present_tensors(checkpoint, module, {"qweight", "qzeros", "scales"}, {});
}

QuantizedLinear decode(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                       int64_t K) {
  const AwqGroups groups = awq_groups(checkpoint, module, N, K);
  const int64_t width = awq_zeros_width(groups.count, groups.columns);
  QuantizedLinear q;
  q.N = N;
  q.K = K;
  q.codes = unpacked<AwqGemvCodes>(
      checked_tensor(checkpoint, module + ".qweight", {Dtype::kI32}, {N, K / 8}), N, K);
  const Tensor zeros = checked_tensor(checkpoint, module + ".qzeros", {Dtype::kI32}, {N, width});
  q.zero.values = with_columns(unpacked<AwqGemvCodes>(zeros, N, 8 * width), groups.count);
  q.scale.values = with_columns(
      checked_tensor(checkpoint, module + ".scales", {Dtype::kF16}, {N, 8 * width}), groups.count);
  return awq_layer(std::move(q), groups, checkpoint.folder().string() + ": " + module);
}

}  // namespace

const Format kFormat = {
    .name = "awq-gemv",
    .summary = "AutoAWQ's checkpoints, version gemv",
    .holds = "integers of 4 bits by group of 32, 64, 128 or more columns, or channel",
    .readers = "AutoAWQ and GPTQModel, with CUDA",
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
    .contradictions = awq_contradictions,
};

}  // namespace nibble::awq_gemv_format
