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
#include "src/quantized/scheme.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

constexpr std::string_view kMethod = "compressed-tensors";
constexpr std::string_view kMixed = "mixed-precision";

// ---- writing ------------------------------------------------------------------------------------

// Loaders reject keys that they do not know.
Json weight_arguments(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  const bool per_tensor = scheme.blocking.rows == kAll;
  const bool grouped = !per_tensor && scheme.blocking.columns != kAll;
  Json arguments;
  arguments["num_bits"] = scheme.grid.bits;
  arguments["type"] = "int";
  arguments["symmetric"] = scheme.symmetric();
  arguments["strategy"] = per_tensor ? "tensor" : grouped ? "group" : "channel";
  if (grouped) arguments["group_size"] = scheme.blocking.columns;
  arguments["dynamic"] = false;
  if (module.has_column_groups) arguments["actorder"] = "group";
  return arguments;
}

Json input_arguments(const ActivationScheme& activations) {
  Json arguments;
  arguments["num_bits"] = activations.bits;
  arguments["type"] = "int";
  arguments["symmetric"] = activations.symmetric;
  arguments["strategy"] = activations.per_token ? "token" : "tensor";
  arguments["dynamic"] = activations.dynamic;
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
  group["format"] = compressed_member(scheme);
  return group;
}

// ---- reading ------------------------------------------------------------------------------------

bool is_read(const std::string& format) {
  return format == kPackQuantized || format == kIntQuantized;
}

// How well a target names a module: 3 by name, 2 by expression, 1 by class, 0 not.
int match(const Json& target, const std::string& module, const std::string& where) {
  if (!target.is_string()) throw Error(where, "a target is no string");
  const auto& text = target.get_ref<const std::string&>();
  if (text == module) return 3;
  if (text.starts_with("re:")) return matches_at_start(text.substr(3), module, where) ? 2 : 0;
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
  throw Error(
      where, what + " is not read yet",
      "read: pack-quantized integers of 2, 3, 4 and 8 bits by tensor, channel or group, and "
      "int-quantized ones of 8 bits");
}

void read_strategy(const Json& weights, const std::string& where, CompressedArguments& arguments) {
  const int64_t group_size = integer_field(weights, "group_size", where).value_or(0);
  const std::string inferred = group_size > 0 ? "group" : group_size < 0 ? "channel" : "tensor";
  const std::string strategy = string_field(weights, "strategy", where).value_or(inferred);
  if (strategy == "group") {
    if (group_size < 1) throw Error(where, "group_size " + std::to_string(group_size));
    arguments.group_size = group_size;
  } else if (strategy == "tensor") {
    arguments.per_tensor = true;
    if (!arguments.symmetric) not_read(where, "a zero point of a whole tensor");
  } else if (strategy != "channel") {
    not_read(where, "strategy '" + strategy + "'");
  }
}

// Null and absent: activations are not quantized.
std::optional<ActivationScheme> read_activations(const Json& group, const std::string& where) {
  const auto found = group.find("input_activations");
  if (found == group.end() || found->is_null()) return std::nullopt;
  if (!found->is_object()) throw Error(where, "'input_activations' is no object");
  if (const auto type = string_field(*found, "type", where); type && *type != "int") {
    not_read(where, "activations of type '" + *type + "'");
  }
  ActivationScheme activations;
  activations.bits = static_cast<int>(integer_field(*found, "num_bits", where).value_or(8));
  if (activations.bits != 8) not_read(where, std::to_string(activations.bits) + "-bit activations");
  activations.symmetric = bool_field(*found, "symmetric", where).value_or(true);
  activations.dynamic = bool_field(*found, "dynamic", where).value_or(false);
  const std::string strategy = string_field(*found, "strategy", where).value_or("tensor");
  if (strategy != "token" && strategy != "tensor") {
    not_read(where, "activations by '" + strategy + "'");
  }
  activations.per_token = strategy == "token";
  if (!activations.dynamic && activations.per_token) {
    throw Error(where, "static activations by token");
  }
  return activations;
}

}  // namespace

std::string_view compressed_member(const Scheme& scheme) {
  return scheme.activations ? kIntQuantized : kPackQuantized;
}

Json compressed_config(std::span<const FormatModule> modules) {
  std::vector<std::pair<Json, Json>> groups;  // without targets, names of modules
  Json ignore = Json::array();
  bool head_known = false;
  for (const FormatModule& module : modules) {
    head_known = head_known || module.name == "lm_head";
    if (!module.scheme) {
      ignore.push_back(module.name);
      continue;
    }
    const Json content = config_group(module);
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const auto& known) { return known.first == content; });
    if (group == groups.end()) group = groups.emplace(groups.end(), content, Json::array());
    group->second.push_back(module.name);
  }
  // A tied head is no module of the checkpoint, but one of the loader's model.
  if (!head_known) ignore.push_back("lm_head");
  if (groups.size() == 1) groups[0].second = Json::array({"Linear"});

  std::string format(groups.empty() ? kPackQuantized : "");
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
  config["ignore"] = std::move(ignore);
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
  if (!is_read(format)) not_read(where, "format '" + format + "'");
  if (const auto type = string_field(weights, "type", where); type && *type != "int") {
    not_read(where, "type '" + *type + "'");
  }
  CompressedArguments arguments;
  arguments.member = format == kIntQuantized ? kIntQuantized : kPackQuantized;
  const int64_t bits = integer_field(weights, "num_bits", where).value_or(8);
  const bool packs = bits == 2 || bits == 3 || bits == 4 || bits == 8;
  if (!packs || (arguments.member == kIntQuantized && bits != 8)) {
    not_read(where, "num_bits " + std::to_string(bits));
  }
  arguments.bits = static_cast<int>(bits);
  arguments.symmetric = bool_field(weights, "symmetric", where).value_or(true);
  read_strategy(weights, where, arguments);
  arguments.activations = read_activations(group, where);
  if (arguments.activations && arguments.member == kPackQuantized) {
    not_read(where, "input_activations of pack-quantized");
  }
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
