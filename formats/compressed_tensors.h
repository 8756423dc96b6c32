// What the members of compressed-tensors share: the configuration, written for a whole model and
// read for one module. Private to this folder. Page: formats/compressed_tensors.md.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"

namespace nibble {

inline constexpr std::string_view kPackQuantized = "pack-quantized";
inline constexpr std::string_view kIntQuantized = "int-quantized";

// The arguments of a module's config group.
struct CompressedArguments {
  std::string_view member;  // kPackQuantized or kIntQuantized
  int bits = 0;
  int64_t group_size = kAll;
  bool symmetric = true;
  bool per_tensor = false;
  std::optional<ActivationScheme> activations;  // int-quantized
};

// The member that holds the scheme.
std::string_view compressed_member(const Scheme& scheme);

// quantization_config of all linear layers of a model.
Json compressed_config(std::span<const FormatModule> modules);
// Whether a quantization_config has only members that are read.
bool recognizes_compressed(const Json& config);
// Throws Error naming the config for a module that no group targets, and for arguments not read.
CompressedArguments compressed_arguments(const Checkpoint& checkpoint, const std::string& module);

// A Format row's contradictions: lists of targets and exceptions against what is stored.
std::vector<std::string> compressed_contradictions(const Checkpoint& checkpoint,
                                                   const std::string& module,
                                                   const QuantizedLinear* q);

// int-quantized: the functions of a Format row for a module whose scheme has activations.
std::string int_quantized_refusal(const FormatModule& module);
std::vector<TensorInfo> int_quantized_layout(const FormatModule& module);
std::vector<NamedTensor> int_quantized_encode(const FormatModule& module, const QuantizedLinear& q);
// Names of its tensors; empty when the module is not stored so.
std::vector<std::string> int_quantized_tensors(const Checkpoint& checkpoint,
                                               const std::string& module);
QuantizedLinear int_quantized_decode(const Checkpoint& checkpoint, const std::string& module,
                                     const CompressedArguments& arguments, int64_t N, int64_t K);

}  // namespace nibble
