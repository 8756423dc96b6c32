// What the versions of AWQ checkpoints share. Page: formats/awq.md.
#include "formats/awq.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config_fields.h"
#include "formats/format.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr uint8_t kMiddle = 8;  // the zero point of symmetric schemes

int64_t config_group_size(const FormatModule& module) {
  return scheme_of(module).blocking.columns == kAll ? -1 : scheme_of(module).blocking.columns;
}

// Under its name or the one that files beside config.json have.
int64_t required_integer(const Json& config, const char* name, const char* other,
                         const std::string& where) {
  const auto value = integer_field(config, name, where);
  const auto result = value ? value : integer_field(config, other, where);
  if (!result) throw Error(where, "no " + std::string(name));
  return *result;
}

// Names are parts of module names.
bool is_excluded(const Json& config, const std::string& module) {
  const auto list = config.find("modules_to_not_convert");
  if (list == config.end() || !list->is_array()) return false;
  return std::ranges::any_of(*list, [&](const Json& part) {
    return part.is_string() && module.find(part.get_ref<const std::string&>()) != std::string::npos;
  });
}

}  // namespace

std::string awq_refusal(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  if (module.name == "lm_head") return "awq loaders keep the output head as it is";
  if (std::string reason = integer_refusal(module, false); !reason.empty()) return reason;
  if (scheme.grid.bits != 4) {
    return "awq holds 4 bits only, not " + std::to_string(scheme.grid.bits);
  }
  if (module.has_column_groups) return "awq has no column groups (act-order)";
  if (scale_type_of(module) != Dtype::kF16) {
    return "awq stores scales as F16, not " + std::string(dtype_name(scale_type_of(module)));
  }
  if (module.N % 8 != 0) {
    return "awq's outputs come in eights: N = " + std::to_string(module.N) +
           " is not a multiple of 8";
  }
  return {};
}

std::string awq_gemv_group_refusal(const FormatModule& module) {
  const int64_t columns = columns_of_group(module);
  if (columns == 32 || columns == 64 || columns >= 128) return {};
  return "its groups have 32, 64, 128 or more columns, not " + std::to_string(columns);
}

Json awq_config(std::span<const FormatModule> modules, const char* key, std::string_view version) {
  const FormatModule* first = nullptr;
  Json left = Json::array();
  for (const FormatModule& module : modules) {
    if (!module.scheme) {
      if (module.name != "lm_head") left.push_back(module.name);
    } else if (first == nullptr) {
      first = &module;
    } else if (config_group_size(module) != config_group_size(*first)) {
      throw Error("awq",
                  "'" + first->name + "' and '" + module.name +
                      "' have different group sizes, but the config has one for the model",
                  "use the format compressed-tensors or gptq");
    }
  }
  Json config;
  config["quant_method"] = "awq";
  config["zero_point"] = true;  // symmetric schemes are stored with zero points of 8
  config["group_size"] = first == nullptr ? -1 : config_group_size(*first);
  config["bits"] = 4;
  config[key] = version;
  config["modules_to_not_convert"] = left.empty() ? Json() : std::move(left);
  return config;
}

std::string awq_version(const Json& config) {
  if (!config.is_object()) return {};
  const std::string method = lower_name(config, "quant_method");
  const bool old_file =
      method.empty() && config.contains("w_bit") && config.contains("q_group_size");
  if (method != "awq" && !old_file) return {};
  if (lower_name(config, "backend") == "llm-awq") return "llm-awq";
  for (const char* key : {"version", "checkpoint_format", "format"}) {
    if (std::string version = lower_name(config, key); !version.empty()) return version;
  }
  return "gemm";
}

AwqGroups awq_groups(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                     int64_t K) {
  const Json& config = checkpoint.quantization_config();
  const std::string where = where_of_config(checkpoint);
  const int64_t bits = required_integer(config, "bits", "w_bit", where);
  if (bits != 4) throw Error(where, "bits " + std::to_string(bits), "awq is read at 4 bits");
  const int64_t group_size = required_integer(config, "group_size", "q_group_size", where);
  const int64_t columns = group_size == -1 ? K : group_size;
  if (columns < 1 || K % columns != 0 || N % 8 != 0) {
    throw Error(where, "group_size " + std::to_string(group_size) + " does not fit '" + module +
                           "' of shape " + to_string({N, K}));
  }
  return {.size = group_size == -1 ? kAll : group_size, .columns = columns, .count = K / columns};
}

Tensor awq_zeros(const QuantizedLinear& q, int64_t groups) {
  if (!q.scheme.symmetric()) return reshaped(q.zero.values, {q.N, groups});
  Tensor zeros = Tensor::allocate(Dtype::kU8, {q.N, groups});
  std::ranges::fill(zeros.mutable_values<uint8_t>(), kMiddle);
  return zeros;
}

QuantizedLinear awq_layer(QuantizedLinear q, const AwqGroups& groups, const std::string& where) {
  const bool symmetric = std::ranges::all_of(q.zero.values.values<uint8_t>(),
                                             [](uint8_t zero) { return zero == kMiddle; });
  q.scheme = integer_scheme(4, groups.size, symmetric, q.scale.values.dtype());
  if (symmetric) q.zero.values = {};
  check(q, where);
  return q;
}

std::vector<std::string> awq_contradictions(const Checkpoint& checkpoint, const std::string& module,
                                            const QuantizedLinear* q) {
  const Json& config = checkpoint.quantization_config();
  const bool excluded = is_excluded(config, module);
  if (q == nullptr) {
    if (excluded || module == "lm_head") return {};
    return {"is stored dense, but not in the config's modules_to_not_convert"};
  }
  std::vector<std::string> found;
  if (excluded) found.emplace_back("is stored quantized, but in modules_to_not_convert");
  if (!q->scheme.symmetric() &&
      !bool_field(config, "zero_point", where_of_config(checkpoint)).value_or(true)) {
    found.emplace_back("zero points other than 8, but the config says zero_point false");
  }
  return found;
}

}  // namespace nibble
