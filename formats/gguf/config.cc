#include "formats/gguf/config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numbers>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/gguf/container.h"
#include "formats/gguf/metadata.h"
#include "formats/gguf/names.h"
#include "formats/gguf/types.h"
#include "formats/json.h"
#include "src/architecture/architecture.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// Keys "<architecture>.<name>" of a file.
class Keys {
 public:
  Keys(const GgufMetadata& metadata, std::string prefix)
      : metadata_(metadata), prefix_(std::move(prefix)) {}

  std::string key(std::string_view name) const { return prefix_ + std::string(name); }
  bool has(std::string_view name) const { return metadata_.has(key(name)); }
  int64_t integer(std::string_view name) const { return metadata_.integer(key(name)); }
  // The decimal that was rounded to the F32 of the file: 1e-6, not 9.99999997e-7.
  double number(std::string_view name) const {
    std::array<char, 32> digits{};
    const auto value = static_cast<float>(metadata_.number(key(name)));
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
    double result = 0;
    std::from_chars(digits.data(), end, result);
    return result;
  }
  std::string text(std::string_view name) const { return metadata_.text(key(name)); }
  const GgufMetadata& metadata() const { return metadata_; }

 private:
  const GgufMetadata& metadata_;
  std::string prefix_;
};

// Llama 3.1 to 3.3 divide frequencies by factors (convert_hf_to_gguf.py, LlamaModel), which the
// file stores and not these numbers that they come from. All that were published agree in all but
// the first.
struct Llama3Rope {
  double factor = 8;
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  double original_context = 0;
};
constexpr int64_t kLlama3Context = 8192;

double frequency_factor(const Llama3Rope& rope, double wavelength) {
  if (wavelength < rope.original_context / rope.high_frequency_factor) return 1;
  if (wavelength > rope.original_context / rope.low_frequency_factor) return rope.factor;
  const double smooth = (rope.original_context / wavelength - rope.low_frequency_factor) /
                        (rope.high_frequency_factor - rope.low_frequency_factor);
  return 1 / ((1 - smooth) / rope.factor + smooth);
}

Json llama3_scaling(const GgufFile& file, const GgufTensor& tensor, const Keys& keys,
                    double theta) {
  const std::string where = tensor_place(file.path().string(), tensor.name);
  if (tensor.type->dtype != Dtype::kF32 || tensor.shape.size() != 1) {
    throw Error(where, "expected F32 [head size / 2]");
  }
  std::vector<float> factors(static_cast<size_t>(tensor.shape[0]));
  std::memcpy(factors.data(), file.bytes(tensor).data(), file.bytes(tensor).size());
  Llama3Rope rope;
  const int64_t context =
      keys.has(kRopeOriginalContext) ? keys.integer(kRopeOriginalContext) : kLlama3Context;
  rope.original_context = static_cast<double>(context);
  rope.factor = static_cast<double>(*std::ranges::max_element(factors));
  for (size_t i = 0; i < factors.size(); ++i) {
    const double power = static_cast<double>(i) / static_cast<double>(factors.size());
    const double expected = frequency_factor(rope, 2 * std::numbers::pi * std::pow(theta, power));
    // The converter computes in F32.
    if (std::abs(static_cast<double>(factors[i]) - expected) <= 1e-4 * expected) continue;
    throw Error(where,
                "factor " + std::to_string(i) + " is " + std::to_string(factors[i]) +
                    ", those of Llama 3 have " + std::to_string(expected),
                "other rope factors are not implemented");
  }
  return {{"rope_type", "llama3"},
          {"factor", rope.factor},
          {"low_freq_factor", rope.low_frequency_factor},
          {"high_freq_factor", rope.high_frequency_factor},
          {"original_max_position_embeddings", context}};
}

Json rope_scaling(const GgufFile& file, const Keys& keys, double theta) {
  if (const GgufTensor* factors = file.find(kRopeFactors)) {
    return llama3_scaling(file, *factors, keys, theta);
  }
  if (!keys.has("rope.scaling.type") || keys.text("rope.scaling.type") == "none") return nullptr;
  return {{"rope_type", keys.text("rope.scaling.type")},
          {"factor", keys.number("rope.scaling.factor")}};
}

// What the model computes in: the type of its embeddings where they are not quantized.
std::string_view dtype_of(const GgufFile& file) {
  const GgufTensor* embedding = file.find("token_embd.weight");
  const bool is_plain = embedding != nullptr && embedding->type->dtype.has_value();
  return torch_dtype_name(is_plain ? *embedding->type->dtype : Dtype::kF16);
}

bool has_quantized_linears(const GgufFile& file) {
  return std::ranges::any_of(file.tensors(), [](const GgufTensor& tensor) {
    return !tensor.type->dtype && tensor.name != "token_embd.weight" &&
           tensor.name != "position_embd.weight";
  });
}

void read_rotary(const GgufFile& file, const Keys& keys, Json& config) {
  const int64_t heads = keys.integer("attention.head_count");
  config["num_key_value_heads"] =
      keys.has("attention.head_count_kv") ? keys.integer("attention.head_count_kv") : heads;
  if (keys.has("attention.key_length")) {
    const int64_t length = keys.integer("attention.key_length");
    if (keys.has("attention.value_length") && keys.integer("attention.value_length") != length) {
      keys.metadata().fail(keys.key("attention.value_length"),
                           "differs from attention.key_length, which is not implemented");
    }
    config["head_dim"] = length;
  }
  if (keys.has("rope.dimension_count") && heads > 0) {
    const int64_t head_size = config.contains("head_dim")
                                  ? config["head_dim"].get<int64_t>()
                                  : keys.integer("embedding_length") / heads;
    if (keys.integer("rope.dimension_count") != head_size) {
      keys.metadata().fail(keys.key("rope.dimension_count"),
                           "is not the head size " + std::to_string(head_size) +
                               ": partial rotation is not implemented");
    }
  }
  const double theta = keys.has("rope.freq_base") ? keys.number("rope.freq_base") : 10000.;
  config["rope_theta"] = theta;
  config["rope_scaling"] = rope_scaling(file, keys, theta);
  config["attention_bias"] = file.find("blk.0.attn_q.bias") != nullptr;
  config["mlp_bias"] = file.find("blk.0.ffn_down.bias") != nullptr;
}

// Keys under which these architectures compute something else.
constexpr std::array<std::string_view, 5> kUnimplemented = {
    "expert_count", "attention.sliding_window", "attention.clamp_kqv", "attention.max_alibi_bias",
    "logit_scale"};

}  // namespace

Json config_from_gguf(const GgufFile& file) {
  const GgufMetadata& metadata = file.metadata();
  const std::string& name = metadata.text("general.architecture");
  const Architecture* row = architecture_of_gguf(name);
  if (row == nullptr) {
    metadata.fail("general.architecture", "'" + name + "' is not implemented",
                  "known are llama, qwen2, qwen3 and gpt2");
  }
  const Keys keys(metadata, name + ".");
  for (const std::string_view key : kUnimplemented) {
    if (keys.has(key) && metadata.number(keys.key(key)) != 0) {
      metadata.fail(keys.key(key), "is not implemented");
    }
  }
  Json config;
  const auto set = [&](std::string_view key, Json value) {
    config[std::string(key)] = std::move(value);
  };
  config["architectures"] = Json::array({row->name});
  config["model_type"] = row->model_type;
  set(row->keys.hidden_size, keys.integer("embedding_length"));
  set(row->keys.intermediate_size, keys.integer("feed_forward_length"));
  const int64_t layers = keys.integer("block_count");
  if (layers < 1 || layers > std::ssize(file.tensors())) {
    metadata.fail(keys.key("block_count"), "is " + std::to_string(layers) + ", the file has " +
                                               std::to_string(file.tensors().size()) + " tensors");
  }
  set(row->keys.layers, layers);
  set(row->keys.heads, keys.integer("attention.head_count"));
  set(row->keys.context, keys.integer("context_length"));
  const bool rotary = row->positions == Positions::kRope;
  set(row->keys.norm_epsilon,
      keys.number(rotary ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon"));
  if (rotary) read_rotary(file, keys, config);
  const GgufTensor* embedding = file.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    throw Error(file.path().string(), "no matrix 'token_embd.weight'", "is it a language model?");
  }
  config["vocab_size"] = embedding->shape[0];
  config["tie_word_embeddings"] = file.find("output.weight") == nullptr;
  config["dtype"] = dtype_of(file);
  for (const char* token : {"bos", "eos"}) {
    const std::string key = "tokenizer.ggml." + std::string(token) + "_token_id";
    if (metadata.has(key)) set(std::string(token) + "_token_id", metadata.integer(key));
  }
  if (has_quantized_linears(file)) config["quantization_config"] = {{"quant_method", "gguf"}};
  return config;
}

}  // namespace nibble
