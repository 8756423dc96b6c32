// What the members of compressed-tensors share: the table of members and the configuration, written
// for a whole model and read for one module. Private to this folder. Page:
// formats/compressed_tensors.md.
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

struct CompressedMember;

// The arguments of a module's config group.
struct CompressedArguments {
  const CompressedMember* member = nullptr;
  int bits = 0;
  Blocking blocking;  // columns: the group size
  bool symmetric = true;
  std::optional<ActivationScheme> activations;

  bool per_tensor() const { return blocking.rows == kAll; }
};

// The functions of a Format row for the modules of one member.
struct CompressedMember {
  std::string_view name;  // `format` of a config group
  bool is_float = false;
  std::string (*refusal)(const FormatModule& module);
  std::vector<TensorInfo> (*layout)(const FormatModule& module);
  std::vector<NamedTensor> (*encode)(const FormatModule& module, const QuantizedLinear& q);
  // Names of its tensors; empty when the module is not stored so.
  std::vector<std::string> (*tensors_of)(const Checkpoint& checkpoint, const std::string& module);
  QuantizedLinear (*decode)(const Checkpoint& checkpoint, const std::string& module,
                            const CompressedArguments& arguments, int64_t N, int64_t K);
};

extern const CompressedMember kPackQuantized;
extern const CompressedMember kIntQuantized;
extern const CompressedMember kFloatQuantized;
extern const CompressedMember kNvfp4Packed;
extern const CompressedMember kMxfp4Packed;

// pack-quantized last: where no other has a module's tensors, it names the ones that are missing.
std::span<const CompressedMember* const> compressed_members();
// The member for a scheme: by its levels and activations. It may refuse the rest.
const CompressedMember& compressed_member(const Scheme& scheme);

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

}  // namespace nibble
