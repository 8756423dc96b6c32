#include "src/model/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "src/architecture/architecture.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"
#include "tests/model/editable_checkpoint.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

std::string message_of(EditableCheckpoint& model) {
  const Checkpoint checkpoint = model.write();
  try {
    read_layout(checkpoint);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

Tensor zeros(Dtype dtype, const Shape& shape) { return Tensor::allocate(dtype, shape); }

TEST(Layout, ListsTheLinearsBlockByBlockAndTheHeadLast) {
  const Checkpoint checkpoint = Checkpoint::open(own_test_data() / "tiny" / "llama-llama3-rope");
  const ModelLayout layout = read_layout(checkpoint);
  ASSERT_EQ(layout.linears.size(), 2 * 7 + 1);
  EXPECT_EQ(layout.linears[0].name, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(layout.linears[8].name, "model.layers.1.self_attn.k_proj");
  EXPECT_EQ(layout.linears[8].N, 32);
  EXPECT_EQ(layout.linears[8].K, 64);
  EXPECT_EQ(layout.linears[8].weight, "model.layers.1.self_attn.k_proj.weight");
  EXPECT_EQ(layout.linears[8].bias, "");
  ASSERT_TRUE(layout.head);
  EXPECT_EQ(layout.linears[*layout.head].name, "lm_head");
  EXPECT_EQ(layout.linears[*layout.head].block, -1);
  EXPECT_EQ(layout.format, nullptr);
  EXPECT_EQ(layout.norms[1].mlp, "model.layers.1.post_attention_layernorm");
}

TEST(Layout, Gpt2StacksThreeRolesAndIsStoredTransposed) {
  const Checkpoint checkpoint = Checkpoint::open(own_test_data() / "tiny" / "gpt2");
  const ModelLayout layout = read_layout(checkpoint);
  const LinearModule& stacked = layout.linears[0];
  EXPECT_EQ(stacked.name, "transformer.h.0.attn.c_attn");
  EXPECT_TRUE(stacked.transposed);
  EXPECT_EQ(stacked.N, 3 * 48);
  EXPECT_EQ(ModelLayout::rows_of(layout.config, stacked, Role::kQuery), std::pair(0L, 48L));
  EXPECT_EQ(ModelLayout::rows_of(layout.config, stacked, Role::kValue), std::pair(96L, 48L));
  EXPECT_FALSE(layout.head);
  const Matrix weight = load_weight(checkpoint, layout, stacked);
  const std::vector<float> stored = load_floats(checkpoint, stacked.weight);
  EXPECT_EQ(weight(5, 7), stored[7 * 144 + 5]);
}

TEST(Layout, HubNamesHaveNoPrefixAndMasksAreIgnored) {
  const ModelLayout layout =
      read_layout(Checkpoint::open(own_test_data() / "tiny" / "gpt2-hub-names"));
  EXPECT_EQ(layout.embedding, "wte.weight");
  EXPECT_EQ(layout.linears[0].name, "h.0.attn.c_attn");
  EXPECT_THAT(layout.ignored, testing::ElementsAre("h.0.attn.bias", "h.1.attn.bias"));
}

TEST(Layout, TiedEmbeddingsUnderEitherName) {
  EditableCheckpoint model("llama-tied");
  EXPECT_EQ(read_layout(model.write()).embedding, "model.embed_tokens.weight");
  model.rename("model.embed_tokens.weight", "lm_head.weight");
  const ModelLayout layout = read_layout(model.write());
  EXPECT_EQ(layout.embedding, "lm_head.weight");
  EXPECT_FALSE(layout.head);
}

TEST(Layout, TiedEmbeddingsStoredTwiceMustBeEqual) {
  EditableCheckpoint model("llama-tied");
  const Tensor embedding = model.tensors.at("model.embed_tokens.weight");
  model.tensors["lm_head.weight"] = embedding;
  EXPECT_FALSE(read_layout(model.write()).head);
  model.tensors["lm_head.weight"] = zeros(embedding.dtype(), embedding.shape());
  EXPECT_THAT(message_of(model), testing::HasSubstr("'lm_head' differs"));
}

TEST(Layout, AnUntiedModelNeedsItsHead) {
  EditableCheckpoint model("llama");
  model.tensors.erase("lm_head.weight");
  EXPECT_THAT(message_of(model), testing::AllOf(testing::HasSubstr("tie_word_embeddings"),
                                                testing::HasSubstr("lm_head.weight")));
}

TEST(Layout, MissingTensorsAreNamed) {
  EditableCheckpoint model("qwen3");
  model.tensors.erase("model.layers.1.self_attn.q_norm.weight");
  EXPECT_THAT(message_of(model), testing::HasSubstr("model.layers.1.self_attn.q_norm.weight"));
}

// Without a name made for each of them.
TEST(Layout, MoreBlocksThanTensorsAreRefusedAtOnce) {
  EditableCheckpoint model("llama-llama3-rope");
  model.config["num_hidden_layers"] = 2'000'000'000;
  EXPECT_THAT(message_of(model), testing::HasSubstr("'num_hidden_layers' is 2000000000"));
  const Checkpoint checkpoint = model.write();
  Findings findings;
  EXPECT_THROW(read_layout(checkpoint, &findings), Error);
}

TEST(Layout, ThousandsOfFindingsEndTheReading) {
  EditableCheckpoint model("llama-llama3-rope");
  for (int i = 0; i < 200; ++i) {
    model.tensors["x." + std::to_string(i)] = zeros(Dtype::kF16, {1});
  }
  model.config["num_hidden_layers"] = 200;
  const Checkpoint checkpoint = model.write();
  Findings findings;
  EXPECT_THROW(read_layout(checkpoint, &findings), Error);
  EXPECT_EQ(findings.size(), 1001U);
}

TEST(Layout, LeftoverTensorsAreNamed) {
  EditableCheckpoint model("llama");
  model.tensors["model.layers.0.self_attn.q_proj.bias"] = zeros(Dtype::kF16, {64});
  EXPECT_THAT(message_of(model), testing::HasSubstr("model.layers.0.self_attn.q_proj.bias"));
  model.tensors["model.layers.2.mlp.up_proj.weight"] = zeros(Dtype::kF16, {96, 64});
  EXPECT_THAT(message_of(model), testing::HasSubstr("1 more"));
}

TEST(Layout, OldRotaryBuffersAreIgnored) {
  EditableCheckpoint model("llama");
  model.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = zeros(Dtype::kF32, {8});
  EXPECT_THAT(read_layout(model.write()).ignored,
              testing::ElementsAre("model.layers.0.self_attn.rotary_emb.inv_freq"));
}

TEST(Layout, WrongShapesAndTypesAreNamed) {
  EditableCheckpoint model("llama");
  model.tensors["model.layers.1.mlp.down_proj.weight"] = zeros(Dtype::kF16, {96, 64});
  EXPECT_THAT(message_of(model),
              testing::AllOf(testing::HasSubstr("model.layers.1.mlp.down_proj.weight"),
                             testing::HasSubstr("[96, 64]"), testing::HasSubstr("[64, 96]")));
  model.tensors["model.layers.1.mlp.down_proj.weight"] = zeros(Dtype::kI8, {64, 96});
  EXPECT_THAT(message_of(model), testing::HasSubstr("I8"));
}

TEST(Layout, AnyFloatTypeIsRead) {
  EditableCheckpoint model("llama");
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  std::vector<float> values(96 * 64);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 31) / 8 - 2;
  for (const Dtype dtype :
       {Dtype::kF64, Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kF8E5M2, Dtype::kF8E4M3}) {
    Tensor tensor = Tensor::allocate(dtype, {96, 64});
    from_float(values, dtype, tensor.mutable_bytes());
    model.tensors[name] = tensor;
    const Checkpoint checkpoint = model.write();
    const std::vector<float> read = load_floats(checkpoint, name);
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(read[i], round_to(values[i], dtype)) << dtype_name(dtype) << " " << i;
    }
    const ModelLayout layout = read_layout(checkpoint);
    EXPECT_EQ(load_weight(checkpoint, layout, layout.linears[5])(0, 3), round_to(values[3], dtype));
  }
}

}  // namespace
}  // namespace nibble
