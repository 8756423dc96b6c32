#include "src/model/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/config_fields.h"
#include "formats/json.h"
#include "src/architecture/architecture.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// Sizes beyond these are damaged files: no tensor of a model comes near.
constexpr int64_t kLargestSize = int64_t{1} << 31;
// transformers' MistralConfig, where the key is absent.
constexpr int64_t kMistralWindow = 4096;

// Typed access to one JSON object; every failure names the key.
class Keys {
 public:
  Keys(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) throw Error(where_, "is not a JSON object");
  }

  // Present and not null.
  bool has(std::string_view key) const {
    const auto found = object_.find(key);
    return found != object_.end() && !found->is_null();
  }
  const Json& at(std::string_view key) const {
    if (!has(key)) throw Error(where_, "key '" + std::string(key) + "' is missing");
    return *object_.find(key);
  }
  int64_t size(std::string_view key) const {
    const Json& value = at(key);
    if (!value.is_number_integer()) fail(key, "a whole number");
    const auto number = value.get<int64_t>();
    if (number < 1 || number > kLargestSize) fail(key, "1 to 2^31");
    return number;
  }
  double number(std::string_view key) const {
    const Json& value = at(key);
    if (!value.is_number()) fail(key, "a number");
    return value.get<double>();
  }
  double positive(std::string_view key) const {
    const double value = number(key);
    if (!(value > 0) || !std::isfinite(value)) fail(key, "a number above 0");
    return value;
  }
  bool flag(std::string_view key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!at(key).is_boolean()) fail(key, "true or false");
    return at(key).get<bool>();
  }
  std::string text(std::string_view key) const {
    if (!at(key).is_string()) fail(key, "a string");
    return at(key).get<std::string>();
  }
  [[noreturn]] void fail(std::string_view key, const std::string& expected) const {
    throw Error(where_,
                "key '" + std::string(key) + "' is " + shown(at(key)) + ", expected " + expected);
  }
  [[noreturn]] void refuse(std::string_view key, const std::string& hint = {}) const {
    throw Error(where_, "'" + std::string(key) + "': " + shown(at(key)) + " is not implemented",
                hint);
  }

 private:
  const Json& object_;
  std::string where_;
};

// Keys that change the forward pass of some model of these families, with the one value (besides
// absent and null) under which it is the plain one.
struct PlainValue {
  std::string_view key;
  std::string_view json;
};
constexpr std::array kPlainValues = {
    PlainValue{"partial_rotary_factor", "1.0"},
    PlainValue{"rotary_pct", "1.0"},
    PlainValue{"attn_logit_softcapping", "0.0"},
    PlainValue{"final_logit_softcapping", "0.0"},
    PlainValue{"logit_scale", "1.0"},
    PlainValue{"logits_scaling", "1.0"},
    PlainValue{"embedding_multiplier", "1.0"},
    PlainValue{"residual_multiplier", "1.0"},
    PlainValue{"attention_multiplier", "null"},
    PlainValue{"query_pre_attn_scalar", "null"},
    PlainValue{"clip_qkv", "null"},
    PlainValue{"attention_chunk_size", "null"},
    PlainValue{"no_rope_layers", "null"},
    PlainValue{"num_local_experts", "0"},
    PlainValue{"num_experts", "0"},
    PlainValue{"use_qk_norm", "false"},
    PlainValue{"qk_layernorm", "false"},
    PlainValue{"parallel_attn", "false"},
    PlainValue{"use_parallel_residual", "false"},
    PlainValue{"scale_attn_weights", "true"},
    PlainValue{"scale_attn_by_inverse_layer_idx", "false"},
    PlainValue{"reorder_and_upcast_attn", "false"},
    PlainValue{"add_cross_attention", "false"},
    PlainValue{"is_encoder_decoder", "false"},
};

void refuse_unimplemented(const Keys& keys) {
  for (const PlainValue& plain : kPlainValues) {
    if (keys.has(plain.key) && keys.at(plain.key) != Json::parse(plain.json))
      keys.refuse(plain.key);
  }
}

Activation read_activation(const Keys& keys, const Architecture& row) {
  if (!keys.has(row.keys.activation)) return row.activation;
  const std::string name = keys.text(row.keys.activation);
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") {
    return Activation::kGeluTanh;
  }
  if (name == "gelu") return Activation::kGeluErf;
  keys.refuse(row.keys.activation, "known are silu, gelu, gelu_new");
}

void read_rope_scaling(const Keys& rope, Config& config) {
  std::string type = "default";
  if (rope.has("rope_type")) {
    type = rope.text("rope_type");
  } else if (rope.has("type")) {
    type = rope.text("type");
  }
  refuse_unimplemented(rope);
  if (rope.has("rope_theta")) config.rope_theta = rope.positive("rope_theta");
  if (type == "default") return;
  RopeScaling& scaling = config.rope_scaling;
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
    scaling.factor = rope.positive("factor");
    return;
  }
  if (type != "llama3") {
    rope.refuse(rope.has("rope_type") ? "rope_type" : "type", "known are default, linear, llama3");
  }
  scaling.kind = RopeScaling::Kind::kLlama3;
  scaling.factor = rope.positive("factor");
  scaling.low_frequency_factor = rope.positive("low_freq_factor");
  scaling.high_frequency_factor = rope.positive("high_freq_factor");
  scaling.original_context = rope.has("original_max_position_embeddings")
                                 ? rope.positive("original_max_position_embeddings")
                                 : static_cast<double>(config.context);
  if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
    rope.fail("high_freq_factor", "more than low_freq_factor");
  }
}

// transformers 4: rope_theta and rope_scaling; 5: rope_parameters with both inside.
void read_rope(const Keys& keys, const std::string& where, Config& config) {
  if (keys.has("rope_theta")) config.rope_theta = keys.positive("rope_theta");
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    if (!keys.has(key) || keys.at(key).empty()) continue;
    const Keys rope(keys.at(key), where + ": '" + std::string(key) + "'");
    for (const auto& [name, value] : keys.at(key).items()) {
      if (value.is_object()) rope.refuse(name, "rope parameters per layer type");
    }
    read_rope_scaling(rope, config);
    if (key == "rope_scaling") return;  // takes precedence in transformers 5 too
  }
}

// Which layers have the sliding window: all or none is implemented.
bool all_layers_slide(const Keys& keys, const Config& config) {
  if (keys.has("layer_types")) {
    int64_t sliding = 0;
    const Json& types = keys.at("layer_types");
    if (!types.is_array()) keys.fail("layer_types", "a list");
    for (const Json& type : types) {
      if (type == "sliding_attention") {
        ++sliding;
      } else if (type != "full_attention") {
        keys.refuse("layer_types", "known are full_attention and sliding_attention");
      }
    }
    if (static_cast<int64_t>(types.size()) != config.layers) {
      keys.fail("layer_types", std::to_string(config.layers) + " entries");
    }
    if (sliding != 0 && sliding != config.layers) {
      keys.refuse("layer_types", "a window in some layers only");
    }
    return sliding != 0;
  }
  if (!keys.has("max_window_layers")) return true;
  if (!keys.at("max_window_layers").is_number_integer()) {
    keys.fail("max_window_layers", "a whole number");
  }
  const auto full = keys.at("max_window_layers").get<int64_t>();  // the first layers are full
  if (full > 0 && full < config.layers) {
    keys.refuse("max_window_layers", "a window in some layers only");
  }
  return full <= 0;
}

int64_t read_sliding_window(const Keys& keys, const Json& json, const Config& config) {
  const std::string_view type = config.architecture->model_type;
  if (type == "mistral") {
    if (!json.contains("sliding_window")) return kMistralWindow;
    const bool window = keys.has("sliding_window");
    return window && all_layers_slide(keys, config) ? keys.size("sliding_window") : 0;
  }
  if (type != "qwen2" && type != "qwen3") return 0;
  if (!keys.flag("use_sliding_window", false) || !keys.has("sliding_window")) return 0;
  return all_layers_slide(keys, config) ? keys.size("sliding_window") : 0;
}

void read_heads(const Keys& keys, const Json& json, Config& config) {
  const Architecture& row = *config.architecture;
  config.heads = keys.size(row.keys.heads);
  config.key_value_heads = config.heads;
  const bool grouped = row.positions == Positions::kRope;
  if (grouped && keys.has("num_key_value_heads")) {
    config.key_value_heads = keys.size("num_key_value_heads");
  } else if (grouped && row.model_type != "llama" && !json.contains("num_key_value_heads")) {
    keys.at("num_key_value_heads");  // the families' defaults differ: a guess would be silent
  }
  if (config.heads % config.key_value_heads != 0) {
    keys.fail("num_key_value_heads", "a divisor of " + std::to_string(config.heads) + " heads");
  }
  if (grouped && keys.has("head_dim")) {
    config.head_size = keys.size("head_dim");
  } else {
    if (config.hidden_size % config.heads != 0) {
      keys.fail(row.keys.heads, "a divisor of " + std::string(row.keys.hidden_size) + " " +
                                    std::to_string(config.hidden_size));
    }
    config.head_size = config.hidden_size / config.heads;
  }
  if (config.head_size > kLargestSize / config.heads) {
    keys.fail("head_dim", "at most 2^31 for all heads together");
  }
  if (grouped && config.head_size % 2 != 0) {
    throw Error("config.json", "head size " + std::to_string(config.head_size) +
                                   " is odd, rotary embedding needs pairs");
  }
}

Dtype read_dtype(const Keys& keys) {
  for (const std::string_view key : {"dtype", "torch_dtype"}) {
    if (!keys.has(key)) continue;
    const std::string name = keys.text(key);
    if (name == "auto") continue;
    const std::optional<Dtype> dtype = dtype_from_torch_name(name);
    if (!dtype || !is_float(*dtype)) keys.fail(key, "a floating-point type");
    return *dtype;
  }
  return Dtype::kF32;
}

}  // namespace

Config read_config(const Json& json, const std::string& where) {
  const Keys keys(json, where);
  Config config;
  config.architecture = &architecture(keys.text("model_type"), where);
  const Architecture& row = *config.architecture;
  refuse_unimplemented(keys);
  config.hidden_size = keys.size(row.keys.hidden_size);
  config.layers = keys.size(row.keys.layers);
  config.context = keys.size(row.keys.context);
  config.vocabulary_size = keys.size("vocab_size");
  // n_inner of GPT-2 is null for 4 * n_embd.
  config.intermediate_size = row.model_type == "gpt2" && !keys.has(row.keys.intermediate_size)
                                 ? 4 * config.hidden_size
                                 : keys.size(row.keys.intermediate_size);
  config.norm_epsilon = keys.positive(row.keys.norm_epsilon);
  config.activation = read_activation(keys, row);
  config.attention_bias = keys.flag("attention_bias", false);
  config.mlp_bias = keys.flag("mlp_bias", false);
  config.tied_embeddings = keys.flag("tie_word_embeddings", row.always_tied);
  config.dtype = read_dtype(keys);
  read_heads(keys, json, config);
  if (row.positions == Positions::kRope) read_rope(keys, where, config);
  config.sliding_window = read_sliding_window(keys, json, config);
  return config;
}

// Su and others, 2021, arXiv 2104.09864: theta_i = base^(-2i/d). llama3: Llama 3.1's
// rope scaling, which keeps high frequencies, divides low ones by the factor and blends between.
std::vector<float> Config::rope_frequencies() const {
  std::vector<float> frequencies(head_size / 2);
  for (int64_t i = 0; i < head_size / 2; ++i) {
    double frequency =
        std::pow(rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_size));
    if (rope_scaling.kind == RopeScaling::Kind::kLinear) frequency /= rope_scaling.factor;
    if (rope_scaling.kind == RopeScaling::Kind::kLlama3) {
      const double turns = rope_scaling.original_context * frequency / (2 * std::numbers::pi);
      const double low = rope_scaling.low_frequency_factor;
      const double high = rope_scaling.high_frequency_factor;
      const double keep = std::clamp((turns - low) / (high - low), 0.0, 1.0);
      frequency = (1 - keep) * frequency / rope_scaling.factor + keep * frequency;
    }
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

}  // namespace nibble
