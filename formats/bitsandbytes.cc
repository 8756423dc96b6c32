// bitsandbytes' checkpoints, as transformers saves them: nf4, fp4 and LLM.int8. Page:
// formats/bitsandbytes.md.
#include "formats/packing/bitsandbytes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config_fields.h"
#include "formats/format.h"
#include "formats/format_rows.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "formats/packing/packing.h"
#include "src/quantized/llm_int8.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble::bitsandbytes_format {
namespace {

constexpr std::string_view kMethod = "bitsandbytes";
constexpr int64_t kMostWeights = int64_t{1} << 30;  // of a block that is read: sums stay in range
constexpr uint8_t kRowFormat = 0;                   // weight_format: rows, not a tiling of old GPUs
constexpr int64_t kOffsetCharacters = 26;           // the longest double in JSON

bool is_double(const Scheme& scheme) { return scheme.scale->second.has_value(); }

// The scheme of this name, "nf4" or "fp4"; none for others.
std::optional<Scheme> table_scheme(const std::string& name, int64_t block, bool double_quant) {
  if (name == "nf4") return nf4_scheme(block, double_quant);
  if (name == "fp4") return fp4_scheme(block, double_quant);
  return std::nullopt;
}

bool is_block(int64_t block) { return block >= 32 && block <= 4096 && (block & (block - 1)) == 0; }

Dtype scale_type(Dtype /*model_dtype*/) { return Dtype::kF32; }

std::string refusal(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  if (scheme.activations) return "it has no place for quantized activations";
  if (module.name == "lm_head") return "its loaders keep the output head as it is";
  if (is_llm_int8(scheme)) return {};
  const std::optional<Scheme> own =
      scheme.scale ? table_scheme(scheme.grid.name, scheme.blocking.columns, is_double(scheme))
                   : std::nullopt;
  if (!own || *own != scheme) return "it holds nf4, fp4 and llm-int8 as bitsandbytes makes them";
  if (!is_block(scheme.blocking.columns)) return "blocks have 32, 64, 128, .. 4096 weights";
  return {};
}

std::string caution(const FormatModule& module) {
  if (is_llm_int8(scheme_of(module))) return {};
  const int64_t block = scheme_of(module).blocking.columns;
  if (module.K % block != 0) {
    return "bitsandbytes 0.50.2 dequantizes blocks that cross rows wrongly on CPUs with AVX-512";
  }
  if (block == 64) return {};
  return "transformers makes blocks of 64 only; it reads " + std::to_string(block) +
         " from the file's own state";
}

// ---- tensors ------------------------------------------------------------------------------------

Json quant_state(const FormatModule& module, std::optional<double> offset) {
  const Scheme& scheme = scheme_of(module);
  Json state;
  state["quant_type"] = scheme.grid.name;
  state["blocksize"] = scheme.blocking.columns;
  state["dtype"] = torch_dtype_name(module.dtype);
  state["shape"] = {module.N, module.K};
  if (offset) {
    state["nested_blocksize"] = scheme.scale->second->block;
    state["nested_dtype"] = "float32";
    state["nested_offset"] = *offset;
  }
  return state;
}

// As Python's json.dumps separates; padded with spaces to the length of the longest offset.
std::string state_text(const FormatModule& module, double offset) {
  const bool nested = is_double(scheme_of(module));
  std::string text;
  const std::string compact =
      quant_state(module, nested ? std::optional(offset) : std::nullopt).dump();
  bool quoted = false;
  for (const char c : compact) {
    quoted = quoted != (c == '"');
    text += c;
    if (!quoted && (c == ',' || c == ':')) text += ' ';
  }
  if (!nested) return text;
  const int64_t digits = std::ssize(Json(offset).dump());
  return text.append(static_cast<size_t>(kOffsetCharacters - digits), ' ');
}

std::vector<TensorInfo> int8_layout(const FormatModule& module) {
  return {{module.name + ".weight", Dtype::kI8, {module.N, module.K}},
          {module.name + ".SCB", Dtype::kF32, {module.N}},
          {module.name + ".weight_format", Dtype::kU8, {}}};
}

std::vector<TensorInfo> layout(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  if (is_llm_int8(scheme)) return int8_layout(module);
  const std::string weight = module.name + ".weight";
  const int64_t blocks = block_count(scheme.blocking, module.N, module.K);
  const bool nested = is_double(scheme);
  std::vector<TensorInfo> tensors = {
      {weight, Dtype::kU8, {BitsandbytesCodes::words(module.N, module.K), 1}},
      {weight + ".absmax", nested ? Dtype::kU8 : Dtype::kF32, {blocks}},
      {weight + ".quant_map", Dtype::kF32, {16}}};
  if (nested) {
    tensors.push_back({weight + ".nested_absmax", Dtype::kF32, {divide_up(blocks, kNestedBlock)}});
    tensors.push_back({weight + ".nested_quant_map", Dtype::kF32, {256}});
  }
  tensors.push_back({weight + ".quant_state.bitsandbytes__" + scheme.grid.name,
                     Dtype::kU8,
                     {std::ssize(state_text(module, 0.))}});
  return tensors;
}

// The code of 0.0, which fills the last byte of an odd number of weights.
uint8_t code_of_zero(const Scheme& scheme) {
  const auto& table = scheme.grid.table;
  return static_cast<uint8_t>(std::find(table.begin(), table.end(), 0.F) - table.begin());
}

Tensor f32(std::span<const float> values) {
  return Tensor::copy_of(Dtype::kF32, {std::ssize(values)}, values);
}

// Integers -128 .. 127 are codes 128 higher.
Tensor moved_by_128(const Tensor& from, Dtype dtype) {
  Tensor to = Tensor::allocate(dtype, from.shape());
  std::transform(from.bytes().begin(), from.bytes().end(), to.mutable_bytes().begin(),
                 [](std::byte value) { return value ^ std::byte{0x80}; });
  return to;
}

std::vector<NamedTensor> encode_int8(const std::vector<TensorInfo>& infos,
                                     const QuantizedLinear& q) {
  if (q.scale.second.values<float>()[0] != kOneOf127) {
    throw Error(infos[1].name, "scales that are not multiples of 1 / 127",
                "the format 'nibble' keeps them");
  }
  return {{infos[0].name, moved_by_128(q.codes, Dtype::kI8)},
          {infos[1].name, reshaped(q.scale.values, infos[1].shape)},
          {infos[2].name, Tensor::copy_of(Dtype::kU8, {}, std::span(&kRowFormat, 1))}};
}

std::vector<NamedTensor> encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const std::vector<TensorInfo> infos = layout(module);
  if (is_llm_int8(q.scheme)) return encode_int8(infos, q);
  std::vector<NamedTensor> tensors;
  const auto add = [&](Tensor tensor) {
    tensors.push_back({infos[tensors.size()].name, std::move(tensor)});
  };
  Tensor words = packed<BitsandbytesCodes>(q.codes, q.N, q.K, Dtype::kU8, infos[0].shape);
  if (q.N * q.K % 2 != 0) {
    words.mutable_values<uint8_t>().back() |= code_of_zero(q.scheme);
  }
  add(std::move(words));
  add(q.scale.values);
  // bitsandbytes' FP4 table has no negative zero; ours has, for that is what its programs compute.
  std::vector<float> table = q.scheme.grid.table;
  for (float& level : table) level = level == 0.F ? 0.F : level;
  add(f32(table));
  if (is_double(q.scheme)) {
    add(q.scale.second);
    add(f32(q.scheme.scale->table));
  }
  const std::string state = state_text(module, static_cast<double>(q.scale.offset));
  add(Tensor::copy_of(Dtype::kU8, {std::ssize(state)},
                      std::span(reinterpret_cast<const uint8_t*>(state.data()), state.size())));
  return tensors;
}

// ---- configuration ------------------------------------------------------------------------------

Json config(std::span<const FormatModule> modules) {
  const FormatModule* first = nullptr;
  for (const FormatModule& module : modules) {
    if (!module.scheme) continue;
    if (first == nullptr) {
      first = &module;
    } else if (first->scheme->grid != module.scheme->grid ||
               is_double(*first->scheme) != is_double(*module.scheme)) {
      throw Error(module.name,
                  "bitsandbytes has one type for a model, and this layer's differs from that of " +
                      first->name,
                  "the format 'nibble' holds both");
    }
  }
  Json config;
  config["quant_method"] = kMethod;
  const bool int8 = first != nullptr && is_llm_int8(*first->scheme);
  config["load_in_4bit"] = !int8;
  config["load_in_8bit"] = int8;
  if (!int8) {
    config["bnb_4bit_quant_type"] = first == nullptr ? "nf4" : first->scheme->grid.name;
    config["bnb_4bit_use_double_quant"] = first != nullptr && is_double(*first->scheme);
    config["bnb_4bit_compute_dtype"] =
        torch_dtype_name(first == nullptr ? Dtype::kF16 : first->dtype);
    config["bnb_4bit_quant_storage"] = "uint8";
  }
  config["llm_int8_skip_modules"] = left_out(modules);
  config["llm_int8_threshold"] = 6.0;
  config["llm_int8_has_fp16_weight"] = false;
  config["llm_int8_enable_fp32_cpu_offload"] = false;
  return config;
}

// ---- reading ------------------------------------------------------------------------------------

constexpr std::array<const char*, 2> kFlags = {"load_in_4bit", "load_in_8bit"};

bool recognizes(const Json& config) {
  if (lower_name(config, "quant_method") != kMethod) return false;
  return std::any_of(kFlags.begin(), kFlags.end(), [&](const char* name) {
    const auto flag = config.find(name);
    return flag != config.end() && flag->is_boolean() && flag->get<bool>();
  });
}

// The module's state tensor: of nf4 or fp4; empty if there is none.
std::string state_name(const Checkpoint& checkpoint, const std::string& module) {
  for (const char* type : {"nf4", "fp4"}) {
    std::string name = module + ".weight.quant_state.bitsandbytes__" + type;
    if (checkpoint.has(name)) return name;
  }
  return {};
}

// Tensors of an LLM.int8 module; none: it is no such module.
std::vector<std::string> int8_tensors(const Checkpoint& checkpoint, const std::string& module) {
  const std::string weight = module + ".weight";
  if (!checkpoint.has(module + ".SCB")) {
    if (!checkpoint.has(weight) || checkpoint.info(weight).info.dtype != Dtype::kI8) return {};
    if (!state_name(checkpoint, module).empty()) return {};
    throw Error(where_of(checkpoint, weight), "8-bit integers without '" + module + ".SCB'",
                "is a shard missing?");
  }
  std::vector<std::string> names = {weight, module + ".SCB"};
  if (std::string format = module + ".weight_format"; checkpoint.has(format)) {
    names.push_back(std::move(format));
  }
  return names;
}

std::vector<std::string> tensors_of(const Checkpoint& checkpoint, const std::string& module) {
  if (auto names = int8_tensors(checkpoint, module); !names.empty()) return names;
  const std::string state = state_name(checkpoint, module);
  if (state.empty()) {
    if (checkpoint.has(module + ".weight.absmax")) {
      throw Error(where_of(checkpoint, module + ".weight.absmax"),
                  "a module without its weight.quant_state.bitsandbytes__nf4 or __fp4",
                  "is a shard missing?");
    }
    return {};
  }
  std::vector<std::string> names = {module + ".weight", state};
  for (const char* part : {"absmax", "quant_map", "nested_absmax", "nested_quant_map"}) {
    std::string name = module + ".weight." + part;
    if (checkpoint.has(name)) names.push_back(std::move(name));
  }
  return names;
}

Json read_state(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo& info = checkpoint.info(name).info;
  if (info.dtype != Dtype::kU8) {
    throw Error(where_of(checkpoint, name),
                std::string(dtype_name(info.dtype)) + ", expected U8: a JSON text");
  }
  if (info.shape.size() != 1) {
    throw Error(where_of(checkpoint, name),
                "shape " + to_string(info.shape) + ", expected [length]: a JSON text");
  }
  const Tensor tensor = checkpoint.tensor(name);
  const auto bytes = tensor.values<uint8_t>();
  Json state = parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                          where_of(checkpoint, name));
  if (!state.is_object()) throw Error(where_of(checkpoint, name), "expected a JSON object");
  return state;
}

std::vector<float> read_map(const Checkpoint& checkpoint, const std::string& name, int64_t count) {
  const Tensor tensor = checked_tensor(checkpoint, name, {Dtype::kF32}, {count});
  const auto values = tensor.values<float>();
  return {values.begin(), values.end()};
}

float read_offset(const Json& state, const std::string& where) {
  const auto found = state.find("nested_offset");
  if (found == state.end() || !found->is_number()) {
    throw Error(where, "no number 'nested_offset', which double quantization needs");
  }
  return static_cast<float>(found->get<double>());
}

// The scheme that the state describes, with the tables of the file.
Scheme read_scheme(const Checkpoint& checkpoint, const std::string& module, const Json& state,
                   const std::string& where) {
  const std::string type = string_field(state, "quant_type", where).value_or("");
  const int64_t block = integer_field(state, "blocksize", where).value_or(0);
  const auto nested = integer_field(state, "nested_blocksize", where);
  if (block < 1 || block > kMostWeights) throw Error(where, "blocksize " + std::to_string(block));
  std::optional<Scheme> scheme = table_scheme(type, block, nested.has_value());
  if (!scheme) throw Error(where, "quant_type '" + type + "', expected nf4 or fp4");
  // Equal but for the sign of zero: the table of the scheme.
  const std::vector<float> table = read_map(checkpoint, module + ".weight.quant_map", 16);
  if (table != scheme->grid.table) scheme->grid.table = table;
  if (!nested) return *scheme;
  if (*nested < 1 || *nested > kMostWeights)
    throw Error(where, "nested_blocksize " + std::to_string(*nested));
  if (const auto dtype = string_field(state, "nested_dtype", where); dtype && *dtype != "float32") {
    throw Error(where, "nested_dtype '" + *dtype + "', expected float32");
  }
  scheme->scale->second->block = *nested;
  scheme->scale->table = read_map(checkpoint, module + ".weight.nested_quant_map", 256);
  return *scheme;
}

void check_shape(const Json& state, const std::string& where, int64_t N, int64_t K) {
  const Json expected = Json::array({N, K});
  const auto found = state.find("shape");
  if (found != state.end() && *found == expected) return;
  throw Error(where, "shape " + (found == state.end() ? std::string("absent") : shown(*found)) +
                         ", expected " + expected.dump() + " from config.json");
}

// weight [ceil(N K / 2), 1] of bytes, or as many bytes of a wider storage type.
Tensor read_words(const Checkpoint& checkpoint, const std::string& name, int64_t words) {
  const Dtype dtype = checkpoint.info(name).info.dtype;
  const int64_t width = dtype_bits(dtype) / 8;
  const Tensor stored = checked_tensor(
      checkpoint, name, {Dtype::kU8, Dtype::kI8, Dtype::kF16, Dtype::kBF16, Dtype::kF32},
      {width == 0 ? words : divide_up(words, width), 1});
  const std::span<const std::byte> bytes = stored.bytes().first(static_cast<size_t>(words));
  return Tensor::copy_of(Dtype::kU8, {words},
                         std::span(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()));
}

QuantizedLinear decode_int8(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                            int64_t K) {
  QuantizedLinear q;
  q.scheme = llm_int8_scheme();
  q.N = N;
  q.K = K;
  q.codes = moved_by_128(checked_tensor(checkpoint, module + ".weight", {Dtype::kI8}, {N, K}),
                         Dtype::kU8);
  q.scale.values =
      reshaped(checked_tensor(checkpoint, module + ".SCB", {Dtype::kF32}, {N}), {N, 1});
  q.scale.second = Tensor::copy_of(Dtype::kF32, {1}, std::span<const float>(&kOneOf127, 1));
  if (const std::string name = module + ".weight_format"; checkpoint.has(name)) {
    const Tensor format = checked_tensor(checkpoint, name, {Dtype::kU8}, {});
    if (const int value = format.values<uint8_t>()[0]; value != kRowFormat) {
      throw Error(where_of(checkpoint, name), "format " + std::to_string(value),
                  "read: 0, rows; the tilings of old GPUs are not");
    }
  }
  check(q, checkpoint.folder().string() + ": " + module);
  return q;
}

QuantizedLinear decode(const Checkpoint& checkpoint, const std::string& module, int64_t N,
                       int64_t K) {
  if (checkpoint.has(module + ".SCB")) return decode_int8(checkpoint, module, N, K);
  const std::string name = state_name(checkpoint, module);
  if (name.empty()) throw Error(where_of(checkpoint, module), "no quant_state");
  const std::string where = where_of(checkpoint, name);
  const Json state = read_state(checkpoint, name);
  check_shape(state, where, N, K);
  const std::string weight = module + ".weight";
  QuantizedLinear q;
  q.N = N;
  q.K = K;
  q.scheme = read_scheme(checkpoint, module, state, where);
  const int64_t blocks = block_count(q.scheme.blocking, N, K);
  const bool nested = is_double(q.scheme);
  q.scale.values =
      checked_tensor(checkpoint, weight + ".absmax", {nested ? Dtype::kU8 : Dtype::kF32}, {blocks});
  if (nested) {
    q.scale.second = checked_tensor(checkpoint, weight + ".nested_absmax", {Dtype::kF32},
                                    {divide_up(blocks, q.scheme.scale->second->block)});
    q.scale.offset = read_offset(state, where);
  }
  q.codes = unpacked<BitsandbytesCodes>(
      read_words(checkpoint, weight, BitsandbytesCodes::words(N, K)), N, K);
  check(q, checkpoint.folder().string() + ": " + module);
  return q;
}

// A skip list without entries means lm_head alone; names are parts of module names.
bool is_skipped(const Json& config, const std::string& module) {
  if (module == "lm_head") return true;
  const auto list = config.find("llm_int8_skip_modules");
  if (list == config.end() || !list->is_array()) return false;
  return std::any_of(list->begin(), list->end(), [&](const Json& part) {
    return part.is_string() && module.find(part.get_ref<const std::string&>()) != std::string::npos;
  });
}

std::vector<std::string> contradictions(const Checkpoint& checkpoint, const std::string& module,
                                        const QuantizedLinear* q) {
  const Json& config = checkpoint.quantization_config();
  const std::string where = where_of_config(checkpoint);
  if (q == nullptr) {
    if (is_skipped(config, module)) return {};
    return {"is stored dense, but not in the config's llm_int8_skip_modules"};
  }
  const bool int8 = is_llm_int8(q->scheme);
  std::vector<std::string> found;
  if (!bool_field(config, kFlags[int8 ? 1 : 0], where).value_or(false)) {
    found.push_back("is stored in " + std::string(int8 ? "8" : "4") + " bits, but the config's " +
                    kFlags[int8 ? 1 : 0] + " is not true");
  }
  if (int8) return found;
  const auto type = string_field(config, "bnb_4bit_quant_type", where);
  if (type && *type != q->scheme.grid.name) {
    found.push_back("is " + q->scheme.grid.name + ", the config says " + *type);
  }
  const auto nested = bool_field(config, "bnb_4bit_use_double_quant", where);
  if (nested && *nested != is_double(q->scheme)) {
    found.push_back(std::string("is ") + (*nested ? "not " : "") +
                    "double-quantized, the config says " + (*nested ? "true" : "false"));
  }
  return found;
}

}  // namespace

const Format kFormat = {
    .name = kMethod,
    .summary = "bitsandbytes' checkpoints of 4 and 8 bits as transformers saves them",
    .holds = "nf4 and fp4 in blocks of 32 to 4096, with and without double quantization; LLM.int8",
    .readers = "transformers with bitsandbytes, vLLM",
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
    .contradictions = contradictions,
};

}  // namespace nibble::bitsandbytes_format
