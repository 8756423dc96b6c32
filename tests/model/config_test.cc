#include "src/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "formats/json.h"
#include "src/architecture/architecture.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

Json tiny_config(const std::string& name, const std::string& file = "config.json") {
  return read_json(own_test_data() / "tiny" / name / file);
}

Config read(const Json& json) { return read_config(json, "config.json"); }

std::string message_of(const Json& json) {
  try {
    read(json);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Config, Transformers4And5SayTheSame) {
  for (const auto& entry : std::filesystem::directory_iterator(own_test_data() / "tiny")) {
    if (!entry.is_directory()) continue;
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    const Config v5 = read(tiny_config(name));
    const Config v4 = read(tiny_config(name, "config.v4.json"));
    const auto all = [](const Config& c) {
      return std::tuple(c.architecture, c.hidden_size, c.intermediate_size, c.layers, c.heads,
                        c.key_value_heads, c.head_size, c.vocabulary_size, c.context,
                        c.norm_epsilon, c.rope_theta, c.rope_frequencies(), c.sliding_window,
                        c.activation, c.attention_bias, c.mlp_bias, c.tied_embeddings, c.dtype);
    };
    EXPECT_EQ(all(v4), all(v5));
  }
}

TEST(Config, ReadsEachFamily) {
  const Config mistral = read(tiny_config("mistral"));
  EXPECT_EQ(mistral.sliding_window, 24);
  EXPECT_EQ(mistral.head_size, 24);
  EXPECT_EQ(mistral.dtype, Dtype::kF16);
  const Config qwen2 = read(tiny_config("qwen2"));
  EXPECT_EQ(qwen2.sliding_window, 0);  // use_sliding_window is false
  EXPECT_FALSE(qwen2.tied_embeddings);
  EXPECT_EQ(qwen2.dtype, Dtype::kBF16);
  EXPECT_EQ(read(tiny_config("qwen3")).head_size, 32);
  const Config gpt2 = read(tiny_config("gpt2"));
  EXPECT_EQ(gpt2.intermediate_size, 4 * gpt2.hidden_size);  // n_inner is null
  EXPECT_EQ(gpt2.activation, Activation::kGeluTanh);
  EXPECT_TRUE(gpt2.tied_embeddings);
  EXPECT_TRUE(read(tiny_config("llama-biases")).mlp_bias);
}

TEST(Config, WhereMistralNamesNoWindowItHasTheDefaultOne) {
  Json json = tiny_config("mistral");
  json.erase("sliding_window");
  EXPECT_EQ(read(json).sliding_window, 4096);
  json["sliding_window"] = nullptr;
  EXPECT_EQ(read(json).sliding_window, 0);
}

TEST(Config, QwenSlidesInAllLayersOrNone) {
  Json json = tiny_config("qwen2", "config.v4.json");
  json["use_sliding_window"] = true;
  json["sliding_window"] = 16;
  json["max_window_layers"] = 28;  // more than there are
  EXPECT_EQ(read(json).sliding_window, 0);
  json["max_window_layers"] = 0;
  EXPECT_EQ(read(json).sliding_window, 16);
  json["max_window_layers"] = 1;
  EXPECT_THAT(message_of(json), testing::HasSubstr("max_window_layers"));
  json["layer_types"] = {"sliding_attention", "sliding_attention"};
  EXPECT_EQ(read(json).sliding_window, 16);
  json["layer_types"] = {"full_attention", "sliding_attention"};
  EXPECT_THAT(message_of(json), testing::HasSubstr("layer_types"));
  json["layer_types"] = {"linear_attention", "full_attention"};
  EXPECT_THAT(message_of(json), testing::HasSubstr("linear_attention"));
  json["layer_types"] = {"sliding_attention"};
  EXPECT_THAT(message_of(json), testing::HasSubstr("2 entries"));
}

// Values of transformers 5.23 (LlamaRotaryEmbedding.inv_freq, head size 32), which computes them in
// float: equal to a few units in the last place.
void expect_frequencies(const Json& rope, const std::vector<float>& expected) {
  Json json = tiny_config("llama");
  json["head_dim"] = 32;
  json["rope_parameters"] = rope;
  const std::vector<float> got = read(json).rope_frequencies();
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(got[i], expected[i], 4e-7f * expected[i]) << i;
}

TEST(RopeFrequencies, Default) {
  expect_frequencies(
      {{"rope_type", "default"}, {"rope_theta", 10000.0}},
      {1.0f, 0.562341332f, 0.316227764f, 0.177827939f, 0.100000001f, 0.0562341288f, 0.0316227786f,
       0.0177827943f, 0.00999999978f, 0.00562341325f, 0.00316227786f, 0.00177827943f,
       0.00100000005f, 0.000562341302f, 0.000316227786f, 0.00017782794f});
}

TEST(RopeFrequencies, LinearScalingDividesAll) {
  expect_frequencies(
      {{"rope_type", "linear"}, {"rope_theta", 10000.0}, {"factor", 4.0}},
      {0.25f, 0.140585333f, 0.079056941f, 0.0444569848f, 0.0250000004f, 0.0140585322f,
       0.00790569466f, 0.00444569858f, 0.00249999994f, 0.00140585331f, 0.000790569466f,
       0.000444569858f, 0.000250000012f, 0.000140585325f, 7.90569466e-05f, 4.44569851e-05f});
}

TEST(RopeFrequencies, Llama3ScalingKeepsHighOnesAndBlends) {
  expect_frequencies(
      {{"rope_type", "llama3"},
       {"rope_theta", 500000.0},
       {"factor", 8.0},
       {"low_freq_factor", 1.0},
       {"high_freq_factor", 4.0},
       {"original_max_position_embeddings", 8192}},
      {1.0f, 0.440366626f, 0.193922758f, 0.0853971019f, 0.0376060307f, 0.0165604409f,
       0.00729266508f, 0.00321144611f, 0.000524846022f, 7.78465546e-05f, 3.42810235e-05f,
       1.50962178e-05f, 6.64786967e-06f, 2.92749974e-06f, 1.28917316e-06f, 5.6770881e-07f});
}

TEST(Config, OldConfigurationsNameTheRopeTypeType) {
  Json json = tiny_config("llama", "config.v4.json");
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  EXPECT_EQ(read(json).rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(read(json).rope_scaling.factor, 2.0);
}

struct Refused {
  std::string model;
  std::string key;
  std::string json;
  std::string message;  // part of it
};

TEST(Config, WhatIsNotImplementedIsNamed) {
  const std::vector<Refused> cases = {
      {"llama", "model_type", R"("llama4")", "'llama4'"},
      {"llama", "model_type", "null", "'model_type' is missing"},
      {"llama", "hidden_act", R"("relu2")", "relu2"},
      {"llama", "partial_rotary_factor", "0.5", "partial_rotary_factor"},
      {"llama", "attn_logit_softcapping", "50.0", "attn_logit_softcapping"},
      {"llama", "final_logit_softcapping", "30.0", "final_logit_softcapping"},
      {"llama", "num_local_experts", "8", "num_local_experts"},
      {"llama", "rope_parameters", R"({"rope_type": "yarn", "factor": 4.0})", "yarn"},
      {"llama", "rope_parameters", R"({"full_attention": {"rope_type": "default"}})",
       "full_attention"},
      {"llama", "rope_scaling", R"({"type": "dynamic", "factor": 2.0})", "dynamic"},
      {"llama", "rope_scaling", R"({"rope_type": "linear"})", "'factor' is missing"},
      {"llama", "rope_scaling", R"({"rope_type": "linear", "factor": -1})", "factor"},
      {"gpt2", "scale_attn_weights", "false", "scale_attn_weights"},
      {"gpt2", "scale_attn_by_inverse_layer_idx", "true", "scale_attn_by_inverse_layer_idx"},
      {"gpt2", "reorder_and_upcast_attn", "true", "reorder_and_upcast_attn"},
      {"gpt2", "add_cross_attention", "true", "add_cross_attention"},
  };
  for (const Refused& c : cases) {
    Json json = tiny_config(c.model);
    json[c.key] = Json::parse(c.json);
    const std::string message = message_of(json);
    EXPECT_THAT(message, testing::HasSubstr(c.message)) << c.key << ": " << c.json;
    EXPECT_THAT(message, testing::StartsWith("config.json: ")) << c.key << ": " << c.json;
  }
}

TEST(Config, WrongTypesAndValuesAreNamed) {
  const std::vector<Refused> cases = {
      {"llama", "hidden_size", "null", "'hidden_size' is missing"},
      {"llama", "hidden_size", R"("64")", "a whole number"},
      {"llama", "hidden_size", "0", "hidden_size"},
      {"llama", "num_hidden_layers", "-2", "num_hidden_layers"},
      {"llama", "vocab_size", "1e30", "vocab_size"},
      {"llama", "num_key_value_heads", "3", "num_key_value_heads"},
      {"llama", "rms_norm_eps", "0", "rms_norm_eps"},
      {"llama", "tie_word_embeddings", "1", "true or false"},
      {"llama", "dtype", R"("float7")", "float7"},
      {"llama", "head_dim", "15", "odd"},
      {"llama", "head_dim", "2147483648", "at most 2^31"},
      {"gpt2", "n_head", "5", "n_head"},
      {"mistral", "sliding_window", "0", "sliding_window"},
  };
  for (const Refused& c : cases) {
    Json json = tiny_config(c.model);
    json[c.key] = Json::parse(c.json);
    EXPECT_THAT(message_of(json), testing::HasSubstr(c.message)) << c.key << ": " << c.json;
  }
  Json json = tiny_config("qwen2");
  json.erase("num_key_value_heads");
  EXPECT_THAT(message_of(json), testing::HasSubstr("num_key_value_heads"));
}

}  // namespace
}  // namespace nibble
