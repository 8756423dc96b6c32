#include "src/architecture/architecture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "src/tensor/error.h"

namespace nibble {
namespace {

TEST(Architectures, EveryRowIsComplete) {
  std::set<std::string_view> types;
  for (const Architecture& row : architectures()) {
    SCOPED_TRACE(row.model_type);
    EXPECT_TRUE(types.insert(row.model_type).second);
    EXPECT_EQ(&architecture(std::string(row.model_type), ""), &row);
    for (const std::string_view text :
         {row.name, row.models, row.embedding, row.block, row.attention_norm, row.mlp_norm,
          row.final_norm, row.head, row.keys.hidden_size, row.keys.layers, row.keys.heads,
          row.keys.context, row.keys.norm_epsilon}) {
      EXPECT_FALSE(text.empty());
    }
    EXPECT_TRUE(row.block.ends_with("."));
    EXPECT_EQ(row.position_embedding.empty(), row.positions == Positions::kRope);
    EXPECT_EQ(row.query_norm.empty(), row.key_norm.empty());
  }
}

TEST(Architectures, EveryBlockComputesEachRoleOnce) {
  for (const Architecture& row : architectures()) {
    SCOPED_TRACE(row.model_type);
    std::map<Role, int> roles;
    for (const LinearRow& linear : row.linears) {
      for (const Role role : linear.roles) ++roles[role];
    }
    for (const Role role :
         {Role::kQuery, Role::kKey, Role::kValue, Role::kAttentionOutput, Role::kUp, Role::kDown}) {
      EXPECT_EQ(roles[role], 1) << static_cast<int>(role);
    }
    EXPECT_LE(roles[Role::kGate], 1);
    EXPECT_EQ(roles[Role::kOutputHead], 0);
  }
}

TEST(Architectures, AnUnknownTypeIsNamedWithTheNearest) {
  try {
    architecture("lama", "config.json");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.where(), "config.json");
    EXPECT_THAT(error.what(), testing::HasSubstr("'lama'"));
    EXPECT_THAT(error.what(), testing::HasSubstr("did you mean 'llama'?"));
    EXPECT_THAT(error.what(), testing::HasSubstr("qwen3"));
  }
}

}  // namespace
}  // namespace nibble
