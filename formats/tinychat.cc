// TinyChat's checkpoints (llm-awq, second version) and AutoAWQ's version "gemv_fast": the same
// bytes, but for the name of one tensor. Page: formats/tinychat.md.
#include "formats/packing/tinychat.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
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
#include "src/quantized/scaled_zeros.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble::tinychat_format {
namespace {

// What differs between the two.
struct Tinychat {
  static constexpr std::string_view kVersion = "llm-awq";
  static constexpr std::string_view kZeros = "scaled_zeros";
  static constexpr const char* kVersionKey = "backend";
};
struct GemvFast {
  static constexpr std::string_view kVersion = "gemv_fast";
  static constexpr std::string_view kZeros = "qzeros";
  static constexpr const char* kVersionKey = "version";
};

Dtype scale_type(Dtype /*model_dtype*/) { return Dtype::kF16; }

std::string refusal(const FormatModule& module) {
  if (std::string reason = awq_refusal(module); !reason.empty()) return reason;
  if (module.K % TinychatCodes::kTileColumns != 0) {
    return "64 inputs interleave: K = " + std::to_string(module.K) + " is not a multiple of 64";
  }
  return awq_gemv_group_refusal(module);
}

std::string caution(const FormatModule& module) {
  std::string cuda = "its readers have CUDA kernels only";
  if (scheme_of(module).symmetric()) return cuda;
  return cuda +
         ", and they add scale * zero rounded to F16: up to half a unit there of another "
         "weight than (code - zero) * scale";
}

template <typename Variant>
std::vector<TensorInfo> layout(const FormatModule& module) {
  const int64_t columns = columns_of_group(module);
  const int64_t width = 8 * awq_zeros_width(module.K / columns, columns);
  return {{module.name + ".qweight", Dtype::kI16, {module.N / 4, module.K}},
          {module.name + ".scales", Dtype::kF16, {width, module.N}},
          {module.name + "." + std::string(Variant::kZeros), Dtype::kF16, {width, module.N}}};
}

// Names the first group whose zero point cannot be told from the product again.
void check_zeros(const FormatModule& module, const Tensor& scales, const Tensor& zeros,
                 const Tensor& scaled) {
  const UnscaledZeros back = unscaled_zeros(scales, scaled);
  const auto meant = zeros.values<uint8_t>();
  const auto read = back.zeros.values<uint8_t>();
  for (size_t i = 0; i < meant.size(); ++i) {
    if (read[i] == meant[i] && static_cast<int64_t>(i) != back.first_unfit) continue;
    const int64_t groups = scales.shape()[1];
    const auto index = static_cast<int64_t>(i);
    throw Error(module.name + ": row " + std::to_string(index / groups) + ", group " +
                    std::to_string(index % groups),
                "the zero point " + std::to_string(meant[i]) +
                    " is lost in scale * zero as F16, which is what the format stores",
                "the format awq keeps it");
  }
}

template <typename Variant>
std::vector<NamedTensor> encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const std::vector<TensorInfo> infos = layout<Variant>(module);
  const int64_t groups = q.K / columns_of_group(module);
  const int64_t width = infos[1].shape[0];
  const Tensor scales = reshaped(q.scale.values, {q.N, groups});
  const Tensor zeros = awq_zeros(q, groups);
  const Tensor scaled = scaled_zeros(scales, zeros);
  check_zeros(module, scales, zeros, scaled);
  return {{infos[0].name, packed<TinychatCodes>(q.codes, q.N, q.K, Dtype::kI16, infos[0].shape)},
          {infos[1].name, transposed(with_columns(scales, width))},
          {infos[2].name, transposed(with_columns(scaled, width))}};
}

template <typename Variant>
Json config(std::span<const FormatModule> modules) {
  return awq_config(modules, Variant::kVersionKey, Variant::kVersion);
}

template <typename Variant>
bool recognizes(const Json& config) {
  return awq_version(config) == Variant::kVersion;
}

template <typename Variant>
std::vector<std::string> tensors_of(const Checkpoint& checkpoint, const std::string& module) {
  return present_tensors(checkpoint, module, {"qweight", "scales", Variant::kZeros}, {});
}

template <typename Variant>
QuantizedLinear decode(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                       int64_t K) {
  const AwqGroups groups = awq_groups(checkpoint, module, N, K);
  if (K % TinychatCodes::kTileColumns != 0) {
    throw Error(where_of(checkpoint, module + ".qweight"),
                "K = " + std::to_string(K) + ", expected a multiple of 64");
  }
  const Shape shape = {8 * awq_zeros_width(groups.count, groups.columns), N};
  const std::string zeros = module + "." + std::string(Variant::kZeros);
  QuantizedLinear q;
  q.N = N;
  q.K = K;
  q.codes = unpacked<TinychatCodes>(
      checked_tensor(checkpoint, module + ".qweight", {Dtype::kI16}, {N / 4, K}), N, K);
  const auto read = [&](const std::string& name) {
    return with_columns(
        transposed(checked_tensor(checkpoint, name, {Dtype::kF16, Dtype::kBF16}, shape)),
        groups.count);
  };
  q.scale.values = read(module + ".scales");
  UnscaledZeros unscaled = unscaled_zeros(q.scale.values, read(zeros));
  if (unscaled.first_unfit >= 0) {
    throw Error(where_of(checkpoint, zeros),
                "row " + std::to_string(unscaled.first_unfit % groups.count) + ", column " +
                    std::to_string(unscaled.first_unfit / groups.count) +
                    " is not the scale times a whole number from 0 to 15, negated",
                "another version's file?");
  }
  q.zero.values = std::move(unscaled.zeros);
  return awq_layer(std::move(q), groups, checkpoint.folder().string() + ": " + module);
}

template <typename Variant>
constexpr Format row(std::string_view name, std::string_view summary, std::string_view readers) {
  return {
      .name = name,
      .summary = summary,
      .holds = "integers of 4 bits by group of 32, 64, 128 or more columns, or channel",
      .readers = readers,
      .config_file = {},
      .scale_type = scale_type,
      .refusal = refusal,
      .caution = caution,
      .layout = layout<Variant>,
      .encode = encode<Variant>,
      .config = config<Variant>,
      .recognizes = recognizes<Variant>,
      .tensors_of = tensors_of<Variant>,
      .decode = decode<Variant>,
      .contradictions = awq_contradictions,
  };
}

}  // namespace

const Format kGemvFast =
    row<GemvFast>("awq-gemv-fast", "AutoAWQ's checkpoints, version gemv_fast: tinychat's bytes",
                  "AutoAWQ and GPTQModel, with CUDA");
const Format kFormat =
    row<Tinychat>("tinychat", "llm-awq's interleaved checkpoints, in safetensors",
                  "GPTQModel and, once loaded into it, TinyChat, with CUDA");

}  // namespace nibble::tinychat_format
