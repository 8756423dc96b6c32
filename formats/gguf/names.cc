#include "formats/gguf/names.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/architecture/architecture.h"

namespace nibble {
namespace {

// The first row with a GGUF name is the one that reads it.
struct Family {
  std::string_view model_type;
  std::string_view gguf;
};
constexpr std::array kFamilies = {Family{"llama", "llama"}, Family{"mistral", "llama"},
                                  Family{"qwen2", "qwen2"}, Family{"qwen3", "qwen3"},
                                  Family{"gpt2", "gpt2"}};

constexpr std::string_view kPermuted = "llama";

// Names inside a block. gguf-py, tensor_mapping.py.
constexpr std::array<std::pair<std::string_view, std::string_view>, 11> kLinearNames = {{
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"attn.c_attn", "attn_qkv"},
    {"attn.c_proj", "attn_output"},
    {"mlp.c_fc", "ffn_up"},
    {"mlp.c_proj", "ffn_down"},
}};

std::string_view linear_name(std::string_view name) {
  const auto* found =
      std::ranges::find(kLinearNames, name, &std::pair<std::string_view, std::string_view>::first);
  return found == kLinearNames.end() ? std::string_view() : found->second;
}

GgufModule::Rows rows_of(const Architecture& architecture, std::span<const Role> roles) {
  if (gguf_architecture(architecture) != kPermuted) return GgufModule::Rows::kInOrder;
  if (roles.front() == Role::kQuery) return GgufModule::Rows::kQueryHeads;
  return roles.front() == Role::kKey ? GgufModule::Rows::kKeyHeads : GgufModule::Rows::kInOrder;
}

}  // namespace

std::string_view gguf_architecture(const Architecture& architecture) {
  const auto* found = std::ranges::find(kFamilies, architecture.model_type, &Family::model_type);
  return found == kFamilies.end() ? std::string_view() : found->gguf;
}

const Architecture* architecture_of_gguf(std::string_view gguf_architecture) {
  const auto* found = std::ranges::find(kFamilies, gguf_architecture, &Family::gguf);
  if (found == kFamilies.end()) return nullptr;
  return &architecture(std::string(found->model_type), "");
}

std::vector<GgufModule> gguf_modules(const Architecture& row, int64_t layers) {
  std::vector<GgufModule> modules;
  const std::string prefix(row.prefix);
  const auto add = [&](const std::string& module, std::string name) {
    modules.push_back({.module = module, .name = std::move(name)});
  };
  add(prefix + std::string(row.embedding), "token_embd");
  if (!row.position_embedding.empty()) {
    add(prefix + std::string(row.position_embedding), "position_embd");
  }
  for (int64_t block = 0; block < layers; ++block) {
    const std::string number = std::to_string(block) + ".";
    const std::string ours = std::string(prefix).append(row.block).append(number);
    const std::string theirs = "blk." + number;
    const auto norm = [&](std::string_view module, const char* name) {
      if (!module.empty()) add(ours + std::string(module), theirs + name);
    };
    norm(row.attention_norm, "attn_norm");
    norm(row.mlp_norm, "ffn_norm");
    norm(row.query_norm, "attn_q_norm");
    norm(row.key_norm, "attn_k_norm");
    for (const LinearRow& linear : row.linears) {
      modules.push_back({.module = ours + std::string(linear.name),
                         .name = theirs + std::string(linear_name(linear.name)),
                         .rows = rows_of(row, linear.roles),
                         .is_linear = true,
                         .transposed = row.transposed});
    }
  }
  add(prefix + std::string(row.final_norm), "output_norm");
  modules.push_back({.module = std::string(row.head), .name = "output", .is_linear = true});
  return modules;
}

int64_t gguf_row(int64_t row, int64_t head_size) {
  const int64_t half = head_size / 2;
  const int64_t inside = row % head_size;
  return row - inside + (inside < half ? 2 * inside : 2 * (inside - half) + 1);
}

}  // namespace nibble
