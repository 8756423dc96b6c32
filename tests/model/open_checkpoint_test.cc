// A GGUF file presents itself as the model it was made from.
#include "src/model/open_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/gguf/container.h"
#include "formats/gguf/metadata.h"
#include "formats/gguf/types.h"
#include "formats/gguf/writer.h"
#include "src/model/config.h"
#include "src/model/layout.h"
#include "src/model/tokenizer.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::filesystem::path model(const char* name) { return test_data() / "models" / name; }

void expect_same_config(const Config& a, const Config& b) {
  EXPECT_EQ(a.architecture, b.architecture);
  EXPECT_EQ(a.hidden_size, b.hidden_size);
  EXPECT_EQ(a.intermediate_size, b.intermediate_size);
  EXPECT_EQ(a.layers, b.layers);
  EXPECT_EQ(a.heads, b.heads);
  EXPECT_EQ(a.key_value_heads, b.key_value_heads);
  EXPECT_EQ(a.head_size, b.head_size);
  EXPECT_EQ(a.vocabulary_size, b.vocabulary_size);
  EXPECT_EQ(a.context, b.context);
  EXPECT_EQ(a.norm_epsilon, b.norm_epsilon);
  EXPECT_EQ(a.rope_frequencies(), b.rope_frequencies());
  EXPECT_EQ(a.attention_bias, b.attention_bias);
  EXPECT_EQ(a.mlp_bias, b.mlp_bias);
  EXPECT_EQ(a.tied_embeddings, b.tied_embeddings);
}

// BF16 weights that small are exact in F16, so every number must be the same.
TEST(OpenCheckpoint, OfLlamaCppsF16FileHasTheOriginalsNumbers) {
  NIBBLE_NEEDS_TEST_DATA();
  const Checkpoint original = open_checkpoint(model("tinystories-656k"));
  const Checkpoint gguf = open_checkpoint(model("tinystories-656k.f16.gguf"));
  const ModelLayout expected = read_layout(original);
  const ModelLayout layout = read_layout(gguf);
  expect_same_config(layout.config, expected.config);
  EXPECT_EQ(layout.format, nullptr);
  ASSERT_EQ(gguf.tensors().size(), original.tensors().size());
  for (const auto& [name, stored] : original.tensors()) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(gguf.has(name));
    EXPECT_EQ(gguf.info(name).info.shape, stored.info.shape);
    EXPECT_EQ(load_floats(gguf, name), load_floats(original, name));
  }
}

// Q8_0 off the originals by half a step of largest / 127, and 127 times the rounding of the scale
// to F16.
void expect_rounded(ConstMatrixRef W, ConstMatrixRef V) {
  for (int64_t n = 0; n < W.rows(); ++n) {
    for (int64_t g = 0; g < W.cols(); g += 32) {
      const float largest = W.row(n).segment(g, 32).cwiseAbs().maxCoeff();
      const float error = (W.row(n).segment(g, 32) - V.row(n).segment(g, 32)).cwiseAbs().maxCoeff();
      ASSERT_LE(error, largest * (0.5F / 127.F + 0x1p-11F) * 1.001F) << n << " " << g;
    }
  }
}

TEST(OpenCheckpoint, OfLlamaCppsQ8_0FileRoundsTheOriginalsNumbers) {
  NIBBLE_NEEDS_TEST_DATA();
  const Checkpoint original = open_checkpoint(model("tinystories-656k"));
  const Checkpoint gguf = open_checkpoint(model("tinystories-656k.q8_0.gguf"));
  const ModelLayout expected = read_layout(original);
  const ModelLayout layout = read_layout(gguf);
  ASSERT_NE(layout.format, nullptr);
  EXPECT_EQ(layout.format->name, "gguf");
  for (size_t i = 0; i < layout.linears.size(); ++i) {
    SCOPED_TRACE(layout.linears[i].name);
    ASSERT_FALSE(layout.linears[i].quantized_tensors.empty());
    expect_rounded(load_weight(original, expected, expected.linears[i]),
                   load_weight(gguf, layout, layout.linears[i]));
  }
  const std::vector<float> exact = load_floats(original, expected.embedding);
  const std::vector<float> rows = load_floats(gguf, layout.embedding);
  const int64_t hidden = layout.config.hidden_size;
  expect_rounded(ConstMatrixMap(exact.data(), layout.config.vocabulary_size, hidden),
                 ConstMatrixMap(rows.data(), layout.config.vocabulary_size, hidden));
}

TEST(OpenCheckpoint, ReadsTheSentencePieceTokenizerOfAFile) {
  NIBBLE_NEEDS_TEST_DATA();
  const Tokenizer tokenizer = Tokenizer::open(model("tinystories-656k.f16.gguf"));
  EXPECT_EQ(tokenizer.description(), "tinystories-656k.f16.gguf (SentencePiece)");
  EXPECT_TRUE(tokenizer.adds_bos());
  // llama_tokenize of llama.cpp, the wheel xllamacpp 2026.10.11549.
  EXPECT_THAT(tokenizer.encode("Once upon a time there was a dog named Tim."),
              ElementsAre(1, 80, 147, 201, 282, 81, 286, 943, 294, 10));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("Once upon a time")), "Once upon a time");
}

// ---- files that cannot be read ------------------------------------------------------------------

// The q8_0 file with its metadata and tensors changed; bytes stay with their tensors.
std::string error_with(const std::function<void(GgufMetadata&)>& change_metadata,
                       const std::function<void(std::vector<GgufTensor>&)>& change_tensors) {
  const auto file = GgufFile::open(model("tinystories-656k.q8_0.gguf"));
  GgufMetadata metadata;
  change_metadata(metadata);
  for (const auto& [key, value] : file->metadata().entries()) {
    if (!metadata.has(key)) metadata.set(key, value);
  }
  std::vector<GgufTensor> tensors = file->tensors();
  change_tensors(tensors);
  const TemporaryFolder folder;
  const auto path = folder.path() / "m.gguf";
  GgufWriter writer(path, false, metadata, tensors);
  for (const GgufTensor& tensor : tensors) {
    const std::vector<std::byte> zeros(
        static_cast<size_t>(gguf_bytes(*tensor.type, tensor.shape, tensor.name)));
    writer.write(tensor.name, zeros);
  }
  writer.finish();
  try {
    const Checkpoint checkpoint = open_checkpoint(path);
    const ModelLayout layout = read_layout(checkpoint);
    for (const LinearModule& module : layout.linears) load_weight(checkpoint, layout, module);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string error_with_key(const std::string& key, const GgufValue& value) {
  return error_with([&](GgufMetadata& m) { m.set(key, value); }, [](auto&) {});
}

TEST(OpenCheckpoint, NamesTheKeyThatItCannotRead) {
  NIBBLE_NEEDS_TEST_DATA();
  EXPECT_EQ(error_with([](auto&) {}, [](auto&) {}), "");
  EXPECT_THAT(error_with_key("general.architecture", std::string("bert")),
              HasSubstr("metadata 'general.architecture': 'bert' is not implemented"));
  EXPECT_THAT(error_with_key("llama.block_count", std::string("2")),
              HasSubstr("metadata 'llama.block_count': is no integer"));
  EXPECT_THAT(error_with_key("llama.block_count", uint32_t{4'000'000'000}),
              HasSubstr("'llama.block_count': is 4000000000, the file has "));
  EXPECT_THAT(error_with_key("llama.block_count", int32_t{-1}), HasSubstr("is -1, the file has "));
  EXPECT_THAT(error_with_key("llama.rope.scaling.type", std::string("\xFF")),
              HasSubstr("metadata 'llama.rope.scaling.factor'"));
  EXPECT_THAT(error_with_key("llama.expert_count", uint32_t{8}),
              HasSubstr("'llama.expert_count': is not implemented"));
  EXPECT_THAT(error_with_key("llama.rope.dimension_count", uint32_t{8}),
              HasSubstr("partial rotation"));
  EXPECT_THAT(error_with_key("llama.attention.head_count", uint32_t{7}), HasSubstr("m.gguf"));
  EXPECT_THAT(error_with_key("llama.attention.head_count_kv", uint32_t{5}), HasSubstr("64 rows"));
  EXPECT_THAT(error_with_key("llama.block_count", uint32_t{1}),
              HasSubstr("tensor 'blk.1.attn_k.weight': is no part"));
  EXPECT_THAT(error_with_key("llama.block_count", uint32_t{3}),
              HasSubstr("no tensor 'model.layers.2."));
  EXPECT_THAT(error_with_key("llama.feed_forward_length", uint32_t{999}),
              HasSubstr("mlp.gate_proj.weight.q8_0': shape [384, 136]"));
  EXPECT_THAT(error_with_key("tokenizer.ggml.model", std::string("t5")),
              HasSubstr("'tokenizer.ggml.model': 't5' is not implemented"));
  EXPECT_THAT(error_with_key("tokenizer.ggml.scores", std::vector<float>{1.F}),
              HasSubstr("'tokenizer.ggml.scores': 1 values for 2048 tokens"));
  EXPECT_THAT(error_with_key("tokenizer.ggml.token_type", std::vector<int32_t>{1}),
              HasSubstr("'tokenizer.ggml.token_type': 1 values"));
  EXPECT_THAT(error_with_key("tokenizer.ggml.bos_token_id", uint32_t{2048}),
              HasSubstr("is 2048, there are 2048 tokens"));
}

TEST(OpenCheckpoint, NamesTheTensorThatItCannotRead) {
  NIBBLE_NEEDS_TEST_DATA();
  const auto error = [](const std::function<void(GgufTensor&)>& change) {
    return error_with([](auto&) {},
                      [&](std::vector<GgufTensor>& tensors) {
                        for (GgufTensor& t : tensors) {
                          if (t.name == "blk.0.ffn_down.weight") change(t);
                        }
                      });
  };
  EXPECT_THAT(error([](GgufTensor& t) { t.name = "blk.0.ffn_extra.weight"; }),
              HasSubstr("no tensor 'model.layers.0.mlp.down_proj.weight'"));
  EXPECT_THAT(error([](GgufTensor& t) {
                t.type = gguf_type("iq3_xxs");
                t.shape = {128, 512};
              }),
              HasSubstr("'blk.0.ffn_down.weight': type iq3_xxs is not implemented"));
  EXPECT_THAT(error([](GgufTensor& t) { t.shape = {384}; }), HasSubstr("expected a matrix"));
  EXPECT_THAT(error([](GgufTensor& t) { t.type = gguf_type("i32"); }),
              HasSubstr("type I32, expected a floating-point type"));
}

}  // namespace
}  // namespace nibble
