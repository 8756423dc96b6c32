// What the versions of AWQ checkpoints share: the schemes, the configuration and how zero points
// are meant. Their bytes differ: formats/awq.cc, formats/awq_gemv.cc, formats/tinychat.cc. Private
// to this folder.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/tensor.h"

namespace nibble {

// Reason why no version holds the module's scheme; empty if all do but for its shape.
std::string awq_refusal(const FormatModule& module);
// Reason why the kernels of "gemv", "gemv_fast" and TinyChat have no such groups; empty if they do.
std::string awq_gemv_group_refusal(const FormatModule& module);

// quantization_config of all linear layers; the version is `version` under `key`.
Json awq_config(std::span<const FormatModule> modules, const char* key, std::string_view version);
// The version that an AWQ quantization_config means, in lower case: "gemm" where it names none,
// "llm-awq" where that is its backend. Empty for other methods' configs.
std::string awq_version(const Json& config);

struct AwqGroups {
  int64_t size = 0;     // as schemes have it: kAll for whole rows
  int64_t columns = 0;  // of a group
  int64_t count = 0;    // of groups in a row
};
// Of a module [N, K], from the checkpoint's config. Throws Error where it does not fit.
AwqGroups awq_groups(const Checkpoint& checkpoint, const std::string& module, int64_t N, int64_t K);

// U8 [N, G]: a symmetric layer has zero points of 8.
Tensor awq_zeros(const QuantizedLinear& q, int64_t groups);
// Sets the scheme of a layer whose codes, scales and zero points were read, and checks it.
QuantizedLinear awq_layer(QuantizedLinear q, const AwqGroups& groups, const std::string& where);

// Format::contradictions.
std::vector<std::string> awq_contradictions(const Checkpoint& checkpoint, const std::string& module,
                                            const QuantizedLinear* q);

}  // namespace nibble
