// compressed-tensors: the format and its table of members. Page: formats/compressed_tensors.md.
#include "formats/compressed_tensors.h"

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/format_rows.h"
#include "formats/module_tensors.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"

namespace nibble {

std::span<const CompressedMember* const> compressed_members() {
  static const std::array<const CompressedMember*, 5> kMembers = {
      &kIntQuantized, &kFloatQuantized, &kNvfp4Packed, &kMxfp4Packed, &kPackQuantized};
  return kMembers;
}

const CompressedMember& compressed_member(const Scheme& scheme) {
  if (is_fp8(scheme)) return kFloatQuantized;
  if (is_nvfp4(scheme)) return kNvfp4Packed;
  if (is_mxfp4(scheme)) return kMxfp4Packed;
  return scheme.activations ? kIntQuantized : kPackQuantized;
}

namespace compressed_tensors_format {
namespace {

Dtype scale_type(Dtype model_dtype) { return model_dtype; }

std::string refusal(const FormatModule& module) {
  return compressed_member(scheme_of(module)).refusal(module);
}

std::string caution(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  const int bits = scheme.grid.bits;
  if (bits == 2 || bits == 3) {
    return "vLLM reads 4 and 8 bits, and releases of compressed-tensors before 2026 another 3-bit "
           "layout; the format gptq is read more widely";
  }
  if (module.has_column_groups) {
    return "compressed-tensors 0.20 dropped column groups (act-order); vLLM reads them";
  }
  if (module.transposed) return "transformers does not load it into Conv1D layers; vLLM does";
  return {};
}

std::vector<TensorInfo> layout(const FormatModule& module) {
  return compressed_member(scheme_of(module)).layout(module);
}

std::vector<NamedTensor> encode(const FormatModule& module, const QuantizedLinear& q) {
  return compressed_member(scheme_of(module)).encode(module, q);
}

std::vector<std::string> tensors_of(const Checkpoint& checkpoint, const std::string& module) {
  for (const CompressedMember* member : compressed_members()) {
    std::vector<std::string> names = member->tensors_of(checkpoint, module);
    if (!names.empty()) return names;
  }
  return {};
}

QuantizedLinear decode(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                       int64_t K) {
  const CompressedArguments arguments = compressed_arguments(checkpoint, module);
  return arguments.member->decode(checkpoint, module, arguments, N, K);
}

}  // namespace

const Format kFormat = {
    .name = "compressed-tensors",
    .summary = "vLLM's own format: its members for integers, FP8, NVFP4 and MXFP4",
    .holds =
        "integers of 2, 3, 4 and 8 bits by group, channel or tensor, act-order; W8A8; FP8, "
        "NVFP4 and MXFP4, also with activations",
    .readers = "vLLM, SGLang, transformers with compressed-tensors (2 and 3 bits: the latter only)",
    .config_file = {},
    .scale_type = scale_type,
    .refusal = refusal,
    .caution = caution,
    .layout = layout,
    .encode = encode,
    .config = compressed_config,
    .recognizes = recognizes_compressed,
    .tensors_of = tensors_of,
    .decode = decode,
    .contradictions = compressed_contradictions,
};

}  // namespace compressed_tensors_format
}  // namespace nibble
