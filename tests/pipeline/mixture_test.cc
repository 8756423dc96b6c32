// The types that llama.cpp gives every tensor of models of several shapes, tests/golden/
// gguf_mixtures.json (tools/golden/gguf_mixtures.py).
#include "src/pipeline/mixture.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/pipeline/layer_scheme.h"
#include "src/quantized/ggml_schemes.h"
#include "tests/golden/golden.h"

namespace nibble {
namespace {

const std::map<std::string, std::vector<Role>, std::less<>> kRoles = {
    {"attn_q", {Role::kQuery}},
    {"attn_k", {Role::kKey}},
    {"attn_v", {Role::kValue}},
    {"attn_qkv", {Role::kQuery, Role::kKey, Role::kValue}},
    {"attn_output", {Role::kAttentionOutput}},
    {"ffn_gate", {Role::kGate}},
    {"ffn_up", {Role::kUp}},
    {"ffn_down", {Role::kDown}},
    {"output", {Role::kOutputHead}},
};

std::string fitting(std::string_view type, int64_t K) {
  const bool fits = K % ggml_scheme(type)->block == 0;
  return std::string(fits ? type : substitute_type(type));
}

TEST(Mixtures, GiveEveryTensorTheTypeThatLlamaCppGivesIt) {
  const Json models = golden_results("gguf_mixtures");
  for (const auto& [model, shape] : models.items()) {
    Config config;
    config.layers = shape.at("blocks");
    config.heads = shape.at("heads");
    config.key_value_heads = shape.at("kv_heads");
    const int64_t K = shape.at("width");
    const bool has_head = shape.at("head");
    for (const auto& [name, tensors] : shape.at("types").items()) {
      const Mixture* row = mixture(name);
      ASSERT_NE(row, nullptr) << name;
      for (const auto& [tensor, types] : tensors.items()) {
        const bool is_embedding = tensor == "token_embd";
        std::vector<Role> roles;
        if (!is_embedding) roles = kRoles.at(tensor);
        if (is_embedding && !has_head) roles = {Role::kOutputHead};
        std::istringstream list(types.get<std::string>());
        int64_t block = 0;
        for (std::string type; list >> type; ++block) {
          EXPECT_EQ(fitting(mixture_type(*row, config, roles, block), K), type)
              << model << ", " << name << ", " << tensor << " of block " << block;
        }
        EXPECT_EQ(block, is_embedding || tensor == "output" ? 1 : config.layers);
      }
    }
  }
}

TEST(Mixtures, AreSchemesByName) {
  const auto names = {"q2_k_m", "q3_k_s", "q3_k_m", "q3_k_l",
                      "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m"};
  for (const std::string name : names) {
    SchemeChoice choice;
    choice.name = name;
    EXPECT_EQ(named_scheme(choice).format, "gguf");
    EXPECT_NE(mixture(name), nullptr);
    EXPECT_NE(ggml_scheme(mixture(name)->type), nullptr);
  }
  EXPECT_EQ(mixture("q4_k"), nullptr);
}

}  // namespace
}  // namespace nibble
