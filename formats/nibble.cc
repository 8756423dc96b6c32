// Our own format: any QuantizedLinear, bit for bit. Page: formats/nibble.md.
#include "formats/packing/nibble.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config_fields.h"
#include "formats/format.h"
#include "formats/format_rows.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "formats/packing/packing.h"
#include "formats/scheme_json.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble::nibble_format {
namespace {

constexpr int64_t kVersion = 1;

Dtype scale_type(Dtype model_dtype) { return model_dtype; }

std::string refusal(const FormatModule& /*module*/) { return {}; }

std::string caution(const FormatModule& /*module*/) { return {}; }

// One stored array: its tensor's suffix, type and shape, and where it is in a QuantizedLinear.
struct Part {
  std::string suffix;
  Dtype dtype = Dtype::kU8;
  Shape shape;
};

// Row-wise parameters are stored [N, G], others as a list.
Shape parameter_shape(const Scheme& scheme, int64_t N, int64_t K) {
  const Blocking& blocking = scheme.blocking;
  if (!blocking.flattened && blocking.rows == 1) return {N, group_count(blocking, K)};
  return {block_count(blocking, N, K)};
}

void add_parameter(std::vector<Part>& parts, const std::string& name,
                   const std::optional<Parameter>& parameter, const Scheme& scheme, int64_t N,
                   int64_t K) {
  if (!parameter) return;
  parts.push_back({name, parameter->type, parameter_shape(scheme, N, K)});
  if (!parameter->second) return;
  const int64_t count = second_count(*parameter->second, block_count(scheme.blocking, N, K), N);
  parts.push_back({name + "_second", parameter->second->type, {count}});
  if (parameter->second->has_offset) parts.push_back({name + "_offset", Dtype::kF32, {1}});
}

// Everything that a module stores, in order.
std::vector<Part> parts_of(const Scheme& scheme, int64_t N, int64_t K, const FormatModule& module) {
  std::vector<Part> parts = {{"codes", Dtype::kU8, {N, divide_up(K * scheme.grid.bits, 8)}}};
  add_parameter(parts, "scale", scheme.scale, scheme, N, K);
  add_parameter(parts, "zero", scheme.zero, scheme, N, K);
  add_parameter(parts, "minimum", scheme.minimum, scheme, N, K);
  if (scheme.grid.kind == Grid::Kind::kCodebook) {
    const int64_t books = block_count(scheme.codebook_blocking, N, K);
    parts.push_back({"codebooks", module.codebook_type, {books, int64_t{1} << scheme.grid.bits}});
  }
  if (module.has_column_groups) parts.push_back({"group_of_column", Dtype::kI32, {K}});
  if (scheme.activations && !scheme.activations->dynamic) {
    parts.push_back({"input_scale", module.input_scale_type, {1}});
    if (!scheme.activations->symmetric) parts.push_back({"input_zero", Dtype::kI8, {1}});
  }
  return parts;
}

std::vector<TensorInfo> layout(const FormatModule& module) {
  std::vector<TensorInfo> tensors;
  for (Part& part : parts_of(scheme_of(module), module.N, module.K, module)) {
    tensors.push_back({module.name + "." + part.suffix, part.dtype, std::move(part.shape)});
  }
  return tensors;
}

// ---- codes --------------------------------------------------------------------------------------

template <typename Visit>
auto with_any_bits(int bits, const Visit& visit) {
  switch (bits) {
    case 1:
      return visit(std::integral_constant<int, 1>{});
    case 5:
      return visit(std::integral_constant<int, 5>{});
    case 6:
      return visit(std::integral_constant<int, 6>{});
    case 7:
      return visit(std::integral_constant<int, 7>{});
    default:
      return with_bits(bits, visit);
  }
}

// The array of q that a part stores; offsets and column groups are no tensors there.
Tensor* tensor_of(QuantizedLinear& q, std::string_view suffix) {
  const std::initializer_list<std::pair<std::string_view, Tensor*>> tensors = {
      {"scale", &q.scale.values},     {"scale_second", &q.scale.second},
      {"zero", &q.zero.values},       {"zero_second", &q.zero.second},
      {"minimum", &q.minimum.values}, {"minimum_second", &q.minimum.second},
      {"codebooks", &q.codebooks},    {"input_scale", &q.input_scale},
      {"input_zero", &q.input_zero}};
  for (const auto& [name, tensor] : tensors) {
    if (name == suffix) return tensor;
  }
  return nullptr;
}

float* offset_of(QuantizedLinear& q, std::string_view suffix) {
  if (suffix == "scale_offset") return &q.scale.offset;
  if (suffix == "zero_offset") return &q.zero.offset;
  return suffix == "minimum_offset" ? &q.minimum.offset : nullptr;
}

Tensor stored_part(QuantizedLinear& q, const TensorInfo& info, std::string_view suffix) {
  if (suffix == "codes") {
    return with_any_bits(q.scheme.grid.bits, [&](auto bits) {
      return packed<NibbleCodes<bits>>(q.codes, q.N, q.K, info.dtype, info.shape);
    });
  }
  if (suffix == "group_of_column") {
    return Tensor::copy_of(info.dtype, info.shape, std::span<const int32_t>(q.group_of_column));
  }
  if (const float* offset = offset_of(q, suffix)) {
    return Tensor::copy_of(info.dtype, info.shape, std::span<const float>(offset, 1));
  }
  const Tensor& tensor = *tensor_of(q, suffix);
  if (tensor.dtype() != info.dtype) {
    throw Error(info.name, std::string(dtype_name(tensor.dtype())) + ", but " +
                               std::string(dtype_name(info.dtype)) + " was planned");
  }
  return reshaped(tensor, info.shape);
}

std::vector<NamedTensor> encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  QuantizedLinear copy = q;  // references to the same arrays
  std::vector<NamedTensor> result;
  for (const TensorInfo& info : layout(module)) {
    const std::string_view suffix = std::string_view(info.name).substr(module.name.size() + 1);
    result.push_back({info.name, stored_part(copy, info, suffix)});
  }
  return result;
}

// ---- configuration ------------------------------------------------------------------------------

Json config(std::span<const FormatModule> modules) {
  std::vector<const Scheme*> schemes;
  Json names = Json::object();
  for (const FormatModule& module : modules) {
    if (!module.scheme) continue;
    auto known = std::find_if(schemes.begin(), schemes.end(),
                              [&](const Scheme* scheme) { return *scheme == scheme_of(module); });
    if (known == schemes.end()) known = schemes.insert(schemes.end(), &scheme_of(module));
    names[module.name] = known - schemes.begin();
  }
  Json config;
  config["quant_method"] = "nibble";
  config["version"] = kVersion;
  config["schemes"] = Json::array();
  for (const Scheme* scheme : schemes) config["schemes"].push_back(scheme_to_json(*scheme));
  config["modules"] = std::move(names);
  return config;
}

// ---- reading ------------------------------------------------------------------------------------

bool recognizes(const Json& config) { return lower_name(config, "quant_method") == "nibble"; }

std::vector<std::string> tensors_of(const Checkpoint& checkpoint, const std::string& module) {
  return present_tensors(checkpoint, module, {"codes"},
                         {"scale", "scale_second", "scale_offset", "zero", "zero_second",
                          "zero_offset", "minimum", "minimum_second", "minimum_offset", "codebooks",
                          "group_of_column", "input_scale", "input_zero"});
}

Scheme stored_scheme(const Checkpoint& checkpoint, const std::string& module) {
  const Json& config = checkpoint.quantization_config();
  const std::string where = where_of_config(checkpoint);
  const int64_t version = integer_field(config, "version", where).value_or(0);
  if (version != kVersion) {
    throw Error(where, "version " + std::to_string(version) + " of the format nibble",
                "this program reads version " + std::to_string(kVersion));
  }
  const auto modules = config.find("modules");
  const auto schemes = config.find("schemes");
  if (modules == config.end() || !modules->is_object() || schemes == config.end() ||
      !schemes->is_array()) {
    throw Error(where, "no list of schemes and modules");
  }
  const auto index = integer_field(*modules, module, where);
  if (!index) throw Error(where, "no scheme for '" + module + "', which has codes");
  if (*index < 0 || *index >= static_cast<int64_t>(schemes->size())) {
    throw Error(where, "'" + module + "' has scheme " + std::to_string(*index) + " of " +
                           std::to_string(schemes->size()));
  }
  return scheme_from_json((*schemes)[static_cast<size_t>(*index)],
                          where + ": scheme " + std::to_string(*index));
}

Tensor read_part(const Checkpoint& checkpoint, const std::string& name, const Part& part) {
  if (part.suffix == "codebooks" || part.suffix == "input_scale") {
    return checked_tensor(checkpoint, name, {Dtype::kF16, Dtype::kBF16, Dtype::kF32}, part.shape);
  }
  return checked_tensor(checkpoint, name, {part.dtype}, part.shape);
}

QuantizedLinear decode(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                       int64_t K) {
  QuantizedLinear q;
  q.scheme = stored_scheme(checkpoint, module);
  q.N = N;
  q.K = K;
  FormatModule stored;
  stored.has_column_groups = checkpoint.has(module + ".group_of_column");
  const std::vector<Part> parts = parts_of(q.scheme, N, K, stored);
  if (tensors_of(checkpoint, module).size() > parts.size()) {
    throw Error(where_of(checkpoint, module + ".codes"),
                "'" + module + "' has tensors that its scheme does not know");
  }
  for (const Part& part : parts) {
    const std::string name = module + "." + part.suffix;
    const Tensor tensor = read_part(checkpoint, name, part);
    if (part.suffix == "codes") {
      q.codes = with_any_bits(q.scheme.grid.bits,
                              [&](auto bits) { return unpacked<NibbleCodes<bits>>(tensor, N, K); });
    } else if (part.suffix == "group_of_column") {
      const auto values = tensor.values<int32_t>();
      q.group_of_column.assign(values.begin(), values.end());
    } else if (float* offset = offset_of(q, part.suffix)) {
      *offset = tensor.values<float>()[0];
    } else {
      *tensor_of(q, part.suffix) = tensor;
    }
  }
  check(q, checkpoint.folder().string() + ": " + module);
  return q;
}

}  // namespace

const Format kFormat = {
    .name = "nibble",
    .summary = "our own: codes as a bit stream, every array as it is",
    .holds = "everything that this program can make, bit for bit",
    .readers = "nibble",
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
};

}  // namespace nibble::nibble_format
