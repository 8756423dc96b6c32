// Models of every architecture into a GGUF file and back: the same configuration and numbers.
#include "src/model/gguf_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/gguf/container.h"
#include "formats/json.h"
#include "src/model/config.h"
#include "src/model/layout.h"
#include "src/model/open_checkpoint.h"
#include "src/tensor/convert.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

// All tensors but buffers, vectors in F32.
void write_all(const Checkpoint& checkpoint, const ModelLayout& layout,
               const std::filesystem::path& file) {
  GgufModelWriter writer(file, false, checkpoint.config(), checkpoint.folder(), Json::object());
  std::vector<TensorInfo> tensors;
  for (const auto& [name, stored] : checkpoint.tensors()) {
    if (std::ranges::find(layout.ignored, name) != layout.ignored.end()) continue;
    tensors.push_back(stored.info);
    tensors.back().dtype = GgufModelWriter::stored_dtype(stored.info);
    writer.declare(tensors.back());
  }
  writer.plan();
  for (const TensorInfo& tensor : tensors) {
    const std::vector<float> values = load_floats(checkpoint, tensor.name);
    Tensor converted = Tensor::allocate(tensor.dtype, tensor.shape);
    from_float(values, tensor.dtype, converted.mutable_bytes());
    writer.write(tensor.name, converted.bytes());
  }
  writer.finish();
}

class GgufModels : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufModels, ComeBackAsTheyWere) {
  const Checkpoint original = Checkpoint::open(own_test_data() / "tiny" / GetParam());
  const ModelLayout expected = read_layout(original);
  const TemporaryFolder folder;
  const auto file = folder.path() / "model.gguf";
  write_all(original, expected, file);
  const Checkpoint gguf = open_checkpoint(file);
  const ModelLayout layout = read_layout(gguf);
  const Config& config = layout.config;
  EXPECT_EQ(config.heads, expected.config.heads);
  EXPECT_EQ(config.key_value_heads, expected.config.key_value_heads);
  EXPECT_EQ(config.head_size, expected.config.head_size);
  EXPECT_EQ(config.intermediate_size, expected.config.intermediate_size);
  EXPECT_EQ(config.norm_epsilon, expected.config.norm_epsilon);
  EXPECT_EQ(config.rope_theta, expected.config.rope_theta);
  EXPECT_EQ(config.rope_frequencies(), expected.config.rope_frequencies());
  EXPECT_EQ(config.tied_embeddings, expected.config.tied_embeddings);
  EXPECT_EQ(config.activation, expected.config.activation);
  ASSERT_EQ(layout.linears.size(), expected.linears.size());
  for (size_t i = 0; i < layout.linears.size(); ++i) {
    SCOPED_TRACE(layout.linears[i].name);
    EXPECT_EQ(layout.linears[i].name, expected.linears[i].name);
    EXPECT_EQ(load_weight(gguf, layout, layout.linears[i]),
              load_weight(original, expected, expected.linears[i]));
  }
  for (const auto& [name, stored] : gguf.tensors()) {
    EXPECT_EQ(load_floats(gguf, name), load_floats(original, name)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(AllArchitectures, GgufModels,
                         ::testing::Values("gpt2", "llama", "llama-biases", "llama-linear-rope",
                                           "llama-llama3-rope", "llama-tied", "qwen2", "qwen2-tied",
                                           "qwen3"));

// By the rule in formats/gguf.md: a head's halves alternate.
TEST(GgufWriter, PermutesTheRowsOfQueriesAndKeysOfLlamaAlone) {
  for (const char* name : {"llama", "qwen2"}) {
    const Checkpoint original = Checkpoint::open(own_test_data() / "tiny" / name);
    const ModelLayout layout = read_layout(original);
    const TemporaryFolder folder;
    write_all(original, layout, folder.path() / "model.gguf");
    const auto file = GgufFile::open(folder.path() / "model.gguf");
    const std::span<const std::byte> theirs = file->bytes(*file->find("blk.1.attn_k.weight"));
    const Tensor ours = original.tensor("model.layers.1.self_attn.k_proj.weight");
    const auto row_bytes = ours.bytes().size() / static_cast<size_t>(ours.shape()[0]);
    const int64_t D = layout.config.head_size;
    for (int64_t row = 0; row < ours.shape()[0]; ++row) {
      const int64_t r = row % D;
      const int64_t half = r < D / 2 ? 2 * r : 2 * (r - D / 2) + 1;
      const int64_t place = std::string(name) == "llama" ? row - r + half : row;
      EXPECT_TRUE(
          std::ranges::equal(theirs.subspan(static_cast<size_t>(place) * row_bytes, row_bytes),
                             ours.bytes().subspan(static_cast<size_t>(row) * row_bytes, row_bytes)))
          << name << " " << row;
    }
  }
}

TEST(GgufWriter, RefusesWhatLlamaCppDoesNotCompute) {
  const Checkpoint original = Checkpoint::open(own_test_data() / "tiny" / "mistral");
  const TemporaryFolder folder;
  const auto error_of = [&](const char* key, const Json& value) -> std::string {
    Json config = original.config();
    config[key] = value;
    try {
      GgufModelWriter(folder.path() / "m.gguf", false, config, original.folder(), Json::object());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_of("sliding_window", nullptr), "");
  EXPECT_THAT(error_of("sliding_window", 8), HasSubstr("a window of 8 tokens"));
  EXPECT_THAT(error_of("hidden_act", "gelu"), HasSubstr("another activation than silu"));
}

}  // namespace
}  // namespace nibble
