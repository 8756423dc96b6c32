// The configuration of compressed-tensors. Page: formats/compressed_tensors.md.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/compressed_tensors.h"
#include "formats/config_fields.h"
#include "formats/format.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "formats/name_pattern.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

constexpr std::string_view kMethod = "compressed-tensors";
constexpr std::string_view kMixed = "mixed-precision";

// E2M1 in groups, as weights of that name.
constexpr ActivationScheme kNvfp4Inputs = {
    .bits = 4, .dynamic = false, .is_float = true, .columns = kNvfp4Group, .divides = true};
constexpr ActivationScheme kMxfp4Inputs = {.bits = 4, .is_float = true, .columns = kMxfp4Group};

// ---- writing ------------------------------------------------------------------------------------

// Groups of FP4 with a global scale for the tensor.
constexpr std::string_view kTensorGroup = "tensor_group";

std::string_view strategy_of(const Scheme& scheme) {
  const Blocking& blocking = scheme.blocking;
  if (blocking.rows == kAll) return "tensor";
  if (blocking.rows > 1 || (is_fp8(scheme) && blocking.columns != kAll)) return "block";
  if (blocking.columns == kAll) return "channel";
  return is_nvfp4(scheme) ? kTensorGroup : "group";
}

// Loaders reject keys that they do not know; those that know MXFP4 know the type of its scales.
Json weight_arguments(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  const std::string_view strategy = strategy_of(scheme);
  Json arguments;
  arguments["num_bits"] = scheme.grid.bits;
  arguments["type"] = compressed_member(scheme).is_float ? "float" : "int";
  arguments["symmetric"] = scheme.symmetric();
  arguments["strategy"] = strategy;
  if (strategy.ends_with("group")) arguments["group_size"] = scheme.blocking.columns;
  if (strategy == "block") {
    arguments["block_structure"] = {scheme.blocking.rows, scheme.blocking.columns};
  }
  arguments["dynamic"] = false;
  if (module.has_column_groups) arguments["actorder"] = "group";
  if (is_mxfp4(scheme)) arguments["scale_dtype"] = "torch.uint8";
  return arguments;
}

Json input_arguments(const ActivationScheme& activations) {
  const bool is_nvfp4 = activations.bits == 4 && !activations.dynamic;
  const bool has_groups = activations.columns != kAll;
  Json arguments;
  arguments["num_bits"] = activations.bits;
  arguments["type"] = activations.is_float ? "float" : "int";
  arguments["symmetric"] = activations.symmetric;
  arguments["strategy"] = is_nvfp4                ? kTensorGroup
                          : has_groups            ? "group"
                          : activations.per_token ? "token"
                                                  : "tensor";
  if (has_groups) arguments["group_size"] = activations.columns;
  arguments["dynamic"] = is_nvfp4 ? Json("local") : Json(activations.dynamic);
  if (activations.bits == 4) {
    arguments["scale_dtype"] = is_nvfp4 ? "torch.float8_e4m3fn" : "torch.uint8";
  }
  return arguments;
}

// A group without its targets.
Json config_group(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  Json group;
  group["weights"] = weight_arguments(module);
  group["input_activations"] =
      scheme.activations ? input_arguments(*scheme.activations) : Json(nullptr);
  group["output_activations"] = nullptr;
  group["format"] = compressed_member(scheme).name;
  return group;
}

// ---- reading ------------------------------------------------------------------------------------

// What compressed-tensors calls a member that it has no other name for: bytes as they are.
constexpr std::string_view kNaive = "naive-quantized";

// Null for a format that is not read.
const CompressedMember* member_named(const std::string& format, bool is_float) {
  if (format == kNaive) return is_float ? &kFloatQuantized : &kIntQuantized;
  for (const CompressedMember* member : compressed_members()) {
    if (member->name == format) return member;
  }
  return nullptr;
}

bool has_bits(const CompressedMember& member, int64_t bits) {
  if (&member == &kPackQuantized) return bits == 2 || bits == 3 || bits == 4 || bits == 8;
  return bits == (&member == &kNvfp4Packed || &member == &kMxfp4Packed ? 4 : 8);
}

bool is_read(const std::string& format) { return member_named(format, false) != nullptr; }

// How well a target names a module: 3 by name, 2 by expression, 1 by class, 0 not.
int match(const Json& target, const std::string& module, const std::string& where) {
  if (!target.is_string()) throw Error(where, "a target is no string");
  const auto& text = target.get_ref<const std::string&>();
  if (text == module) return 3;
  if (text.starts_with("re:")) {
    return NamePattern(text.substr(3), where).matches_at_start(module) ? 2 : 0;
  }
  return text == "Linear" || text == "Conv1D" ? 1 : 0;
}

// The group of config_groups that is meant for the module; null if none is.
const Json* find_group(const Json& config, const std::string& module, const std::string& where) {
  const auto groups = config.find("config_groups");
  if (groups == config.end() || !groups->is_object()) throw Error(where, "no config_groups");
  const Json* best = nullptr;
  int best_match = 0;
  for (const Json& group : *groups) {
    const auto targets = group.is_object() ? group.find("targets") : group.end();
    if (!group.is_object() || targets == group.end() || !targets->is_array()) {
      throw Error(where, "a config group has no list of targets");
    }
    for (const Json& target : *targets) {
      if (const int found = match(target, module, where); found > best_match) {
        best = &group;
        best_match = found;
      }
    }
  }
  return best;
}

bool is_ignored(const Json& config, const std::string& module, const std::string& where) {
  const auto list = config.find("ignore");
  if (list == config.end() || !list->is_array()) return false;
  return std::any_of(list->begin(), list->end(),
                     [&](const Json& entry) { return match(entry, module, where) > 0; });
}

[[noreturn]] void not_read(const std::string& where, const std::string& what) {
  throw Error(where, what + " is not read yet",
              "read: pack-quantized integers of 2, 3, 4 and 8 bits by tensor, channel or group, "
              "int-quantized ones of 8 bits, FP8 by tensor, channel or block, NVFP4 and MXFP4");
}

Blocking read_block_structure(const Json& weights, const std::string& where) {
  const auto block = block_field(weights, "block_structure", where);
  if (!block) throw Error(where, "strategy 'block' without a 'block_structure'");
  return {.rows = block->front(), .columns = block->back()};
}

void read_strategy(const Json& weights, const std::string& where, CompressedArguments& arguments) {
  const int64_t group_size = integer_field(weights, "group_size", where).value_or(0);
  const std::string inferred = group_size > 0 ? "group" : group_size < 0 ? "channel" : "tensor";
  const std::string strategy = string_field(weights, "strategy", where).value_or(inferred);
  const CompressedMember& member = *arguments.member;
  const bool is_nvfp4 = &member == &kNvfp4Packed;
  if (is_nvfp4 || &member == &kMxfp4Packed) {
    const int64_t expected = is_nvfp4 ? kNvfp4Group : kMxfp4Group;
    if (strategy != (is_nvfp4 ? kTensorGroup : "group") || group_size != expected) {
      not_read(where, "strategy '" + strategy + "', group_size " + std::to_string(group_size) +
                          " of " + std::string(member.name));
    }
    arguments.blocking.columns = expected;
  } else if (strategy == "group" && &member != &kFloatQuantized) {
    if (group_size < 1) throw Error(where, "group_size " + std::to_string(group_size));
    arguments.blocking.columns = group_size;
  } else if (strategy == "block" && &member == &kFloatQuantized) {
    arguments.blocking = read_block_structure(weights, where);
  } else if (strategy == "tensor") {
    arguments.blocking.rows = kAll;
    if (!arguments.symmetric) not_read(where, "a zero point of a whole tensor");
  } else if (strategy != "channel") {
    not_read(where, "strategy '" + strategy + "'");
  }
}

// "local": scales of groups are found at run time, relative to a stored one.
bool is_local(const Json& activations) { return lower_name(activations, "dynamic") == "local"; }

ActivationScheme read_int_activations(const Json& json, const std::string& where) {
  ActivationScheme activations;
  activations.bits = static_cast<int>(integer_field(json, "num_bits", where).value_or(8));
  if (activations.bits != 8) not_read(where, std::to_string(activations.bits) + "-bit activations");
  activations.symmetric = bool_field(json, "symmetric", where).value_or(true);
  activations.dynamic = bool_field(json, "dynamic", where).value_or(false);
  const std::string strategy = string_field(json, "strategy", where).value_or("tensor");
  if (strategy != "token" && strategy != "tensor") {
    not_read(where, "activations by '" + strategy + "'");
  }
  activations.per_token = strategy == "token";
  if (!activations.dynamic && activations.per_token) {
    throw Error(where, "static activations by token");
  }
  return activations;
}

// FP8 by token, group of a token or tensor; FP4 as its weights.
ActivationScheme read_float_activations(const Json& json, const std::string& where) {
  const int64_t bits = integer_field(json, "num_bits", where).value_or(8);
  const int64_t group = integer_field(json, "group_size", where).value_or(0);
  const std::string inferred = group > 0 ? "group" : "tensor";
  const std::string strategy = string_field(json, "strategy", where).value_or(inferred);
  const bool is_dynamic = is_local(json) || bool_field(json, "dynamic", where).value_or(false);
  if (!bool_field(json, "symmetric", where).value_or(true)) {
    not_read(where, "asymmetric floating-point activations");
  }
  const std::string found = std::to_string(bits) + "-bit floating-point activations by '" +
                            strategy + "'" + (is_dynamic ? "" : ", static");
  if (bits == 4) {
    if (is_local(json) && strategy == kTensorGroup && group == kNvfp4Group) return kNvfp4Inputs;
    if (is_dynamic && strategy == "group" && group == kMxfp4Group) return kMxfp4Inputs;
    not_read(where, found);
  }
  ActivationScheme activations = {
      .dynamic = is_dynamic, .per_token = strategy != "tensor", .is_float = true};
  const bool is_known = strategy == "tensor" || strategy == "token" || strategy == "group";
  const bool has_e8m0_scales = lower_name(json, "scale_dtype") == "torch.uint8";
  if (bits != 8 || !is_known || has_e8m0_scales || (activations.per_token && !is_dynamic)) {
    not_read(where, found);
  }
  if (strategy == "group") {
    if (group < 1) throw Error(where, "group_size " + std::to_string(group) + " of activations");
    activations.columns = group;
  }
  return activations;
}

// Null and absent: activations are not quantized.
std::optional<ActivationScheme> read_activations(const Json& group, const CompressedMember& member,
                                                 const std::string& where) {
  const auto found = group.find("input_activations");
  if (found == group.end() || found->is_null()) return std::nullopt;
  if (!found->is_object()) throw Error(where, "'input_activations' is no object");
  if (&member == &kPackQuantized) not_read(where, "input_activations of pack-quantized");
  const std::string type = string_field(*found, "type", where).value_or("int");
  if (type != (member.is_float ? "float" : "int")) {
    not_read(where, "activations of type '" + type + "' in " + std::string(member.name));
  }
  return member.is_float ? read_float_activations(*found, where)
                         : read_int_activations(*found, where);
}

}  // namespace

Json compressed_config(std::span<const FormatModule> modules) {
  std::vector<std::pair<Json, Json>> groups;  // without targets, names of modules
  for (const FormatModule& module : modules) {
    if (!module.scheme) continue;
    const Json content = config_group(module);
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const auto& known) { return known.first == content; });
    if (group == groups.end()) group = groups.emplace(groups.end(), content, Json::array());
    group->second.push_back(module.name);
  }
  if (groups.size() == 1) groups[0].second = Json::array({"Linear"});

  std::string format(groups.empty() ? kPackQuantized.name : "");
  Json config_groups = Json::object();
  for (size_t i = 0; i < groups.size(); ++i) {
    const auto member = groups[i].first.at("format").get<std::string>();
    format = format.empty() || format == member ? member : std::string(kMixed);
    Json group;
    group["targets"] = std::move(groups[i].second);
    group.update(groups[i].first);
    config_groups["group_" + std::to_string(i)] = std::move(group);
  }
  Json config;
  config["quant_method"] = kMethod;
  config["format"] = format;
  config["quantization_status"] = "compressed";
  if (!config_groups.empty()) config["config_groups"] = std::move(config_groups);
  config["ignore"] = left_out(modules);
  config["kv_cache_scheme"] = nullptr;
  config["global_compression_ratio"] = nullptr;
  config["sparsity_config"] = Json::object();
  config["transform_config"] = Json::object();
  config["version"] = "0.9.0";  // required by some loaders, used by none
  return config;
}

bool recognizes_compressed(const Json& config) {
  if (lower_name(config, "quant_method") != kMethod) return false;
  if (is_read(lower_name(config, "format"))) return true;
  const auto groups = config.find("config_groups");
  if (groups == config.end() || !groups->is_object() || groups->empty()) return false;
  return std::all_of(groups->begin(), groups->end(),
                     [](const Json& group) { return is_read(lower_name(group, "format")); });
}

CompressedArguments compressed_arguments(const Checkpoint& checkpoint, const std::string& module) {
  const std::string where = where_of_config(checkpoint);
  const Json& config = checkpoint.quantization_config();
  const Json* target = find_group(config, module, where);
  if (target == nullptr) {
    throw Error(where, "no config group has '" + module + "', which is stored packed, as a target");
  }
  const Json& group = *target;
  const auto found = group.find("weights");
  if (found == group.end() || !found->is_object()) throw Error(where, "a group has no 'weights'");
  const Json& weights = *found;
  const auto outputs = group.find("output_activations");
  if (outputs != group.end() && !outputs->is_null()) not_read(where, "output_activations");
  std::string format = lower_name(config, "format");
  if (const auto own = string_field(group, "format", where)) format = *own;
  const std::string type = string_field(weights, "type", where).value_or("int");
  CompressedArguments arguments;
  arguments.member = member_named(format, type == "float");
  if (arguments.member == nullptr) not_read(where, "format '" + format + "'");
  if (type != (arguments.member->is_float ? "float" : "int")) {
    not_read(where, "type '" + type + "' in " + format);
  }
  const int64_t bits = integer_field(weights, "num_bits", where).value_or(8);
  if (!has_bits(*arguments.member, bits)) not_read(where, "num_bits " + std::to_string(bits));
  arguments.bits = static_cast<int>(bits);
  arguments.symmetric = bool_field(weights, "symmetric", where).value_or(true);
  if (arguments.member->is_float && !arguments.symmetric) {
    not_read(where, "asymmetric floating-point weights");
  }
  read_strategy(weights, where, arguments);
  arguments.activations = read_activations(group, *arguments.member, where);
  return arguments;
}

std::vector<std::string> compressed_contradictions(const Checkpoint& checkpoint,
                                                   const std::string& module,
                                                   const QuantizedLinear* q) {
  const Json& config = checkpoint.quantization_config();
  const std::string where = where_of_config(checkpoint);
  const bool ignored = is_ignored(config, module, where);
  if (q != nullptr && ignored) return {"is stored quantized, but in the config's 'ignore'"};
  if (q == nullptr && !ignored && find_group(config, module, where) != nullptr) {
    return {"is stored dense, but a target of the config and not in its 'ignore'"};
  }
  return {};
}

}  // namespace nibble
