// GPTQ checkpoints, versions 1 and 2. Page: formats/gptq.md.
#include "formats/packing/gptq.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config_fields.h"
#include "formats/format.h"
#include "formats/format_rows.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "formats/name_pattern.h"
#include "formats/packing/packing.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble::gptq_format {
namespace {

constexpr std::string_view kVersion1 = "gptq";
constexpr std::string_view kVersion2 = "gptq_v2";

bool supported_bits(int64_t bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

Dtype scale_type(Dtype /*model_dtype*/) { return Dtype::kF16; }

std::string refusal(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  if (std::string reason = integer_refusal(module, false); !reason.empty()) return reason;
  if (!supported_bits(scheme.grid.bits)) return "gptq holds 2, 3, 4 and 8 bits";
  if (scale_type_of(module) != Dtype::kF16) {
    return "gptq stores scales as F16, not " + std::string(dtype_name(scale_type_of(module)));
  }
  if (module.K % 32 != 0) {
    return "gptq packs along K: K = " + std::to_string(module.K) + " is not a multiple of 32";
  }
  if (module.N % 32 != 0) {
    return "gptq packs zero points along N: N = " + std::to_string(module.N) +
           " is not a multiple of 32";
  }
  return {};
}

std::string caution(const FormatModule& module) {
  if (!scheme_of(module).symmetric()) {
    return "asymmetric is written as gptq_v2, which AutoGPTQ does not read";
  }
  return {};
}

// ---- tensors ------------------------------------------------------------------------------------

std::vector<TensorInfo> layout(const FormatModule& module) {
  const auto [name, N, K] = std::tie(module.name, module.N, module.K);
  const int bits = scheme_of(module).grid.bits;
  const int64_t groups = K / columns_of_group(module);
  return {{name + ".qweight", Dtype::kI32, {K * bits / 32, N}},
          {name + ".qzeros", Dtype::kI32, {groups, N * bits / 32}},
          {name + ".scales", Dtype::kF16, {groups, N}},
          {name + ".g_idx", Dtype::kI32, {K}}};
}

// What is stored as zero points [N, G]: version 2 stores them, version 1, which we write for
// symmetric schemes, the middle of the range less one.
Tensor zeros_to_store(const QuantizedLinear& q, int64_t groups) {
  if (!q.scheme.symmetric()) return q.zero.values;
  Tensor zeros = Tensor::allocate(Dtype::kU8, {q.N, groups});
  const auto middle = static_cast<uint8_t>(-q.scheme.grid.lowest);
  std::ranges::fill(zeros.mutable_values<uint8_t>(), gptq_zero_to_v1(middle));
  return zeros;
}

// Marlin and its like sort the columns by group and count on equal groups. Empty if they are.
std::string unequal_groups(const QuantizedLinear& q, int64_t columns) {
  std::map<int32_t, int64_t> sizes;
  for (const int32_t group : q.group_of_column) ++sizes[group];
  for (const auto& [group, size] : sizes) {
    if (size == columns) continue;
    return "group " + std::to_string(group) + " has " + std::to_string(size) +
           " columns, gptq needs " + std::to_string(columns) + " in each";
  }
  return {};
}

std::vector<NamedTensor> encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const int64_t columns = columns_of_group(module);
  const int64_t groups = q.K / columns;
  if (const std::string problem = unequal_groups(q, columns); !problem.empty()) {
    throw Error(module.name, problem);
  }
  const std::vector<TensorInfo> infos = layout(module);
  return with_bits(q.scheme.grid.bits, [&](auto bits) -> std::vector<NamedTensor> {
    const Tensor zeros = zeros_to_store(q, groups);
    return {
        {infos[0].name, packed<GptqWeights<bits>>(q.codes, q.N, q.K, Dtype::kI32, infos[0].shape)},
        {infos[1].name, packed<GptqZeros<bits>>(zeros, q.N, groups, Dtype::kI32, infos[1].shape)},
        {infos[2].name, transposed(reshaped(q.scale.values, {q.N, groups}))},
        {infos[3].name, column_group_tensor(q, columns)}};
  });
}

// ---- configuration ------------------------------------------------------------------------------

int64_t config_group_size(const Scheme& scheme) {
  return scheme.blocking.columns == kAll ? -1 : scheme.blocking.columns;
}

// Bits and group size: what `dynamic` may override per module.
using Setting = std::pair<int, int64_t>;

Setting setting_of(const FormatModule& module) {
  return {scheme_of(module).grid.bits, config_group_size(scheme_of(module))};
}

// The most frequent one, the first of equals.
Setting usual_setting(std::span<const FormatModule> modules) {
  std::map<Setting, int64_t> counts;
  Setting usual{};
  int64_t most = 0;
  for (const FormatModule& module : modules) {
    if (module.scheme) ++counts[setting_of(module)];
  }
  for (const FormatModule& module : modules) {
    if (module.scheme && counts[setting_of(module)] > most) {
      usual = setting_of(module);
      most = counts[usual];
    }
  }
  return usual;
}

// Throws unless all are symmetric or all are not: the version, and with it the meaning of every
// zero point, is one for the model.
bool all_symmetric(std::span<const FormatModule> modules) {
  const FormatModule* symmetric = nullptr;
  const FormatModule* asymmetric = nullptr;
  for (const FormatModule& module : modules) {
    if (module.scheme) (scheme_of(module).symmetric() ? symmetric : asymmetric) = &module;
  }
  if (symmetric != nullptr && asymmetric != nullptr) {
    throw Error("gptq",
                "'" + symmetric->name + "' is symmetric and '" + asymmetric->name +
                    "' is not, but the version is one for the whole model",
                "quantize all modules one way, or use the format compressed-tensors");
  }
  return asymmetric == nullptr;
}

Json overrides_of(std::span<const FormatModule> modules, const Setting& usual) {
  Json dynamic = Json::object();
  for (const FormatModule& module : modules) {
    const bool head = module.name == "lm_head";
    if (!module.scheme) {
      if (!head) dynamic["-:" + exactly(module.name)] = Json::object();
    } else if (const Setting setting = setting_of(module); setting != usual) {
      dynamic["+:" + exactly(module.name)] = {{"bits", setting.first},
                                              {"group_size", setting.second}};
    }
  }
  return dynamic;
}

Json config(std::span<const FormatModule> modules) {
  const bool symmetric = all_symmetric(modules);
  const Setting usual = usual_setting(modules);
  const auto any = [&](auto predicate) {
    return std::any_of(modules.begin(), modules.end(), predicate);
  };
  const std::string_view version = symmetric ? kVersion1 : kVersion2;
  Json config;
  config["quant_method"] = "gptq";
  config["bits"] = usual.first;
  config["group_size"] = usual.second;
  config["desc_act"] = any([](const FormatModule& module) { return module.has_column_groups; });
  config["sym"] = symmetric;
  config["lm_head"] = any([](const FormatModule& m) { return m.name == "lm_head" && m.scheme; });
  config["checkpoint_format"] = version;
  config["format"] = version;
  config["pack_dtype"] = "int32";
  // Required by some loaders within (0, 1), used by none.
  config["damp_percent"] = 0.01;
  config["true_sequential"] = true;
  config["static_groups"] = false;
  config["model_name_or_path"] = nullptr;
  config["model_file_base_name"] = nullptr;
  config["meta"] = {{"quantizer", Json::array({"nibble:0.1.0"})}};
  if (Json dynamic = overrides_of(modules, usual); !dynamic.empty()) {
    config["dynamic"] = std::move(dynamic);
  }
  return config;
}

// ---- reading ------------------------------------------------------------------------------------

std::string version_of(const Json& config) {
  std::string version = lower_name(config, "checkpoint_format");
  const std::string newer = lower_name(config, "format");
  if (!version.empty()) return version;
  return newer.empty() ? std::string(kVersion1) : newer;
}

bool recognizes(const Json& config) {
  if (!config.is_object()) return false;
  const std::string method = lower_name(config, "quant_method");
  const bool old_file = method.empty() && config.contains("bits") && config.contains("desc_act");
  const std::string version = version_of(config);
  const auto marlin = config.find("is_marlin_format");
  if (marlin != config.end() && *marlin == true) return false;
  return (method == "gptq" || old_file) && (version == kVersion1 || version == kVersion2);
}

std::vector<std::string> tensors_of(const Checkpoint& checkpoint, const std::string& module) {
  return present_tensors(checkpoint, module, {"qweight", "qzeros", "scales"}, {"g_idx"});
}

struct Settings {
  int bits = 4;
  int64_t group_size = kAll;
  bool version1 = true;
  bool desc_act = false;
  std::optional<bool> symmetric;
};

// The first entry of `dynamic` that matches the module; without one, neither.
struct Override {
  const Json* settings = nullptr;
  bool excluded = false;
};

Override override_of(const Json& config, const std::string& module, const std::string& where) {
  const auto dynamic = config.find("dynamic");
  if (dynamic == config.end() || dynamic->is_null()) return {};
  if (!dynamic->is_object()) throw Error(where, "'dynamic' is not an object");
  for (const auto& [key, value] : dynamic->items()) {
    const bool prefixed = key.starts_with("-:") || key.starts_with("+:");
    const NamePattern pattern(prefixed ? key.substr(2) : key, where);
    if (!pattern.matches_at_start(module)) continue;
    if (key.starts_with("-:")) return {.settings = nullptr, .excluded = true};
    return {.settings = &value, .excluded = false};
  }
  return {};
}

Settings settings_of(const Checkpoint& checkpoint, const std::string& module) {
  const Json& config = checkpoint.quantization_config();
  const std::string where = where_of_config(checkpoint);
  const auto [dynamic, excluded] = override_of(config, module, where);
  if (excluded) {
    throw Error(where, "'dynamic' excludes '" + module + "', which is stored quantized");
  }
  const Json none;
  const Json& first = dynamic != nullptr ? *dynamic : none;
  const auto integer = [&](const char* key) {
    const auto value = integer_field(first, key, where);
    return value ? value : integer_field(config, key, where);
  };
  const auto boolean = [&](const char* key) {
    const auto value = bool_field(first, key, where);
    return value ? value : bool_field(config, key, where);
  };
  if (const auto words = string_field(config, "pack_dtype", where); words && *words != "int32") {
    throw Error(where, "pack_dtype '" + *words + "' is not read yet", "read: int32");
  }
  const std::optional<int64_t> bits = integer("bits");
  const std::optional<int64_t> group_size = integer("group_size");
  if (!bits || !supported_bits(*bits)) {
    throw Error(where, bits ? "bits " + std::to_string(*bits) : "no bits",
                "read: 2, 3, 4 and 8 bits");
  }
  if (!group_size || *group_size == 0 || *group_size < -1) {
    throw Error(where, group_size ? "group_size " + std::to_string(*group_size) : "no group_size",
                "expected -1 for whole rows or a positive number of columns");
  }
  return {.bits = static_cast<int>(*bits),
          .group_size = *group_size == -1 ? kAll : *group_size,
          .version1 = version_of(config) == kVersion1,
          .desc_act = boolean("desc_act").value_or(false),
          .symmetric = boolean("sym")};
}

// qzeros [G, N * bits / 32] -> U8 [N, G].
template <int kBits>
Tensor read_zeros(const Tensor& stored, int64_t N, int64_t groups, bool version1) {
  if (!version1) return unpacked<GptqZeros<kBits>>(stored, N, groups);
  Tensor words = Tensor::copy_of(Dtype::kI32, stored.shape(), stored.values<uint32_t>());
  if constexpr (32 % kBits == 0) {
    for (uint32_t& word : words.mutable_values<uint32_t>()) word = gptq_word_from_v1<kBits>(word);
  }
  Tensor zeros = unpacked<GptqZeros<kBits>>(words, N, groups);
  if constexpr (32 % kBits != 0) {
    for (uint8_t& zero : zeros.mutable_values<uint8_t>()) zero = gptq_zero_from_v1<kBits>(zero);
  }
  return zeros;
}

void check_packable(const Checkpoint& checkpoint, const std::string& module, int bits, int64_t N,
                    int64_t K) {
  for (const int64_t size : {N, K}) {
    if (size * bits % 32 != 0) {
      throw Error(where_of(checkpoint, module + ".qweight"),
                  to_string({N, K}) + " weights of " + std::to_string(bits) +
                      " bits do not fill whole words",
                  "the layout of such shapes is not read yet");
    }
  }
}

std::vector<int32_t> read_column_groups(const Checkpoint& checkpoint, const std::string& module,
                                        const Settings& settings, int64_t K, int64_t columns) {
  const std::string name = module + ".g_idx";
  if (checkpoint.has(name)) {
    return column_groups(checkpoint, name, K, columns, divide_up(K, columns));
  }
  if (settings.desc_act) {
    throw Error(where_of(checkpoint, module + ".qweight"),
                "'" + name + "' is missing, but the config says desc_act",
                "without it the group of a column is unknown");
  }
  return {};
}

QuantizedLinear decode(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                       int64_t K) {
  const Settings settings = settings_of(checkpoint, module);
  const int64_t columns = settings.group_size == kAll ? K : settings.group_size;
  const int64_t groups = divide_up(K, columns);
  check_packable(checkpoint, module, settings.bits, N, K);
  const int bits = settings.bits;
  const Tensor weights =
      checked_tensor(checkpoint, module + ".qweight", {Dtype::kI32}, {K * bits / 32, N});
  const Tensor zeros =
      checked_tensor(checkpoint, module + ".qzeros", {Dtype::kI32}, {groups, N * bits / 32});
  const Tensor scales = checked_tensor(checkpoint, module + ".scales",
                                       {Dtype::kF16, Dtype::kBF16, Dtype::kF32}, {groups, N});

  QuantizedLinear q;
  q.N = N;
  q.K = K;
  q.scale.values = transposed(scales);
  with_bits(bits, [&](auto width) {
    q.codes = unpacked<GptqWeights<width>>(weights, N, K);
    q.zero.values = read_zeros<width>(zeros, N, groups, settings.version1);
  });
  const int middle = 1 << (bits - 1);
  const bool symmetric = settings.symmetric.value_or(true) &&
                         std::ranges::all_of(q.zero.values.values<uint8_t>(),
                                             [&](int zero) { return zero == middle; });
  q.scheme = integer_scheme(bits, settings.group_size, symmetric, scales.dtype());
  if (symmetric) q.zero.values = {};
  q.group_of_column = read_column_groups(checkpoint, module, settings, K, columns);
  check(q, checkpoint.folder().string() + ": " + module);
  return q;
}

// Of a module that is stored dense.
std::vector<std::string> dense_contradictions(const Checkpoint& checkpoint,
                                              const std::string& module) {
  const Json& config = checkpoint.quantization_config();
  const std::string where = where_of_config(checkpoint);
  if (module == "lm_head") {
    if (!bool_field(config, "lm_head", where).value_or(false)) return {};
    return {"is stored dense, the config says lm_head"};
  }
  const auto listed = config.find("modules_in_block_to_quantize");  // optimum's own way
  if (listed != config.end() && !listed->is_null()) return {};
  if (override_of(config, module, where).excluded) return {};
  return {"is stored dense, but the config excludes no such module ('dynamic')"};
}

std::vector<std::string> contradictions(const Checkpoint& checkpoint, const std::string& module,
                                        const QuantizedLinear* q) {
  if (q == nullptr) return dense_contradictions(checkpoint, module);
  const Settings settings = settings_of(checkpoint, module);
  std::vector<std::string> found;
  if (settings.symmetric.value_or(false) && !q->scheme.symmetric()) {
    const auto zeros = q->zero.values.values<uint8_t>();
    const int middle = 1 << (settings.bits - 1);
    const auto other = std::ranges::find_if(zeros, [&](uint8_t zero) { return zero != middle; });
    found.push_back("zero points of " + std::to_string(*other) +
                    ", the config says sym, which is " + std::to_string(middle) +
                    " throughout (version 1 taken for 2, or the reverse?)");
  }
  if (!settings.desc_act && !q->group_of_column.empty()) {
    found.emplace_back("g_idx is not k / group_size, but the config says desc_act false");
  }
  const int64_t columns = settings.group_size == kAll ? q->K : settings.group_size;
  if (std::string problem = unequal_groups(*q, columns); !problem.empty()) {
    found.push_back(std::move(problem));
  }
  if (module == "lm_head" &&
      !bool_field(checkpoint.quantization_config(), "lm_head", where_of_config(checkpoint))
           .value_or(false)) {
    found.emplace_back("is stored quantized, the config does not say lm_head");
  }
  return found;
}

}  // namespace

const Format kFormat = {
    .name = "gptq",
    .summary = "GPTQ's checkpoints, version 1 for symmetric, 2 for asymmetric schemes",
    .holds = "integers of 2, 3, 4 and 8 bits by group or channel, act-order",
    .readers = "vLLM, SGLang, GPTQModel, transformers, llama.cpp's converter, AutoGPTQ (symmetric)",
    .config_file = "quantize_config.json",
    .scale_type = scale_type,
    .refusal = refusal,
    .caution = caution,
    .layout = layout,
    .encode = encode,
    .config = config,
    .recognizes = recognizes,
    .tensors_of = tensors_of,
    .decode = decode,
    .contradictions = contradictions,
};

}  // namespace nibble::gptq_format
