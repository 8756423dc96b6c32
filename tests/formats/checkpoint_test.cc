#include "formats/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "formats/json.h"
#include "src/tensor/error.h"
#include "tests/formats/raw_safetensors.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

// A file of one-byte tensors with these names; their values count from 0.
std::string bytes_named(const std::vector<std::string>& names) {
  Json header = Json::object();
  std::string data;
  for (size_t i = 0; i < names.size(); ++i) {
    header[names[i]] = {{"dtype", "U8"}, {"shape", {1}}, {"data_offsets", {i, i + 1}}};
    data += static_cast<char>(i);
  }
  return raw_safetensors(header.dump(), data);
}

class CheckpointTest : public testing::Test {
 protected:
  void put(const std::string& name, const std::string& bytes) const { write_file(at(name), bytes); }
  fs::path at(const std::string& name) const { return folder_.path() / name; }
  const fs::path& folder() const { return folder_.path(); }
  // Two shards, "a" and "b" in the first, "c" in the second, and an index with this weight_map.
  void put_shards(const Json& weight_map) const {
    put("config.json", "{}");
    put("s1.safetensors", bytes_named({"a", "b"}));
    put("s2.safetensors", bytes_named({"c"}));
    put("model.safetensors.index.json", Json{{"weight_map", weight_map}}.dump());
  }
  std::string refusal(const std::string& name = "") const {
    return message_of<Error>([&] { Checkpoint::open(name.empty() ? folder() : at(name)); });
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(CheckpointTest, ReadsASingleFile) {
  put("config.json", R"({"model_type": "llama"})");
  put("model.safetensors", bytes_named({"b", "a"}));
  const Checkpoint checkpoint = Checkpoint::open(folder());
  EXPECT_EQ(checkpoint.config()["model_type"], "llama");
  EXPECT_TRUE(checkpoint.quantization_config().is_null());
  EXPECT_EQ(checkpoint.tensors().begin()->first, "a");
  EXPECT_EQ(checkpoint.tensor("a").values<uint8_t>()[0], 1);
  EXPECT_EQ(checkpoint.info("a").file, at("model.safetensors"));
  EXPECT_EQ(checkpoint.bytes(), 2);
  EXPECT_TRUE(checkpoint.has("b"));
  EXPECT_FALSE(checkpoint.has("c"));
}

TEST_F(CheckpointTest, AFolderMayBeNamedAsAFileIs) {
  for (const char* name : {"model.gguf", "model.bin"}) {
    fs::create_directory(at(name));
    put(std::string(name) + "/config.json", "{}");
    put(std::string(name) + "/model.safetensors", bytes_named({"a"}));
    EXPECT_TRUE(Checkpoint::open(at(name)).has("a")) << name;
  }
}

TEST_F(CheckpointTest, ReadsShards) {
  put_shards({{"a", "s1.safetensors"}, {"b", "s1.safetensors"}, {"c", "s2.safetensors"}});
  const Checkpoint checkpoint = Checkpoint::open(folder());
  EXPECT_EQ(checkpoint.tensors().size(), 3U);
  EXPECT_EQ(checkpoint.tensor("b").values<uint8_t>()[0], 1);
  EXPECT_EQ(checkpoint.info("c").file, at("s2.safetensors"));
}

TEST_F(CheckpointTest, ASafetensorsFileAloneHasNoConfig) {
  put("any.safetensors", bytes_named({"a"}));
  EXPECT_TRUE(Checkpoint::open(at("any.safetensors")).config().is_null());
  put("config.json", R"({"x": 1})");
  EXPECT_EQ(Checkpoint::open(at("any.safetensors")).config()["x"], 1);
  EXPECT_EQ(Checkpoint::open(at("any.safetensors")).folder(), folder());
}

// As the Hugging Face cache stores them.
TEST_F(CheckpointTest, FollowsLinks) {
  const TemporaryFolder blobs;
  write_file(blobs.path() / "0123", bytes_named({"a"}));
  fs::create_symlink(blobs.path() / "0123", at("model.safetensors"));
  put("config.json", "{}");
  EXPECT_TRUE(Checkpoint::open(folder()).has("a"));
}

TEST_F(CheckpointTest, TensorsOutliveTheCheckpoint) {
  put("any.safetensors", bytes_named({"a", "b"}));
  const Tensor tensor = Checkpoint::open(at("any.safetensors")).tensor("b");
  EXPECT_EQ(tensor.values<uint8_t>()[0], 1);
}

TEST_F(CheckpointTest, UnalignedTensorsAreReadRight) {
  const float value = 1.5F;
  std::string data(reinterpret_cast<const char*>(&value), sizeof(value));
  for (size_t spaces = 0; spaces < 4; ++spaces) {
    const std::string padding(spaces, ' ');
    put("m.safetensors",
        raw_safetensors(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})" + padding,
                        data));
    const Tensor tensor = Checkpoint::open(at("m.safetensors")).tensor("w");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes().data()) % 4, 0U);
    EXPECT_EQ(tensor.values<float>()[0], value);
  }
}

TEST_F(CheckpointTest, UnknownTensorsGetTheNearestName) {
  put("any.safetensors", bytes_named({"model.norm.weight"}));
  const Checkpoint checkpoint = Checkpoint::open(at("any.safetensors"));
  EXPECT_THAT(
      message_of<Error>([&] { checkpoint.tensor("model.norm.weights"); }),
      HasSubstr("no tensor 'model.norm.weights' (the nearest name is 'model.norm.weight')"));
}

// Pages of mapped files in this process.
int64_t shared_pages() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0;
  int64_t resident = 0;
  int64_t shared = 0;
  file >> size >> resident >> shared;
  return shared;
}

TEST_F(CheckpointTest, ReleasedTensorsLeaveMemoryAndComeBack) {
  constexpr int64_t kBytes = 16 << 20;
  put("m.safetensors",
      raw_safetensors(R"({"w":{"dtype":"U8","shape":[)" + std::to_string(kBytes) +
                          R"(],"data_offsets":[0,)" + std::to_string(kBytes) + "]}}",
                      std::string(kBytes, 'x')));
  const Checkpoint checkpoint = Checkpoint::open(at("m.safetensors"));
  const Tensor tensor = checkpoint.tensor("w");
  const auto sum = [&] {
    int64_t total = 0;
    for (const uint8_t value : tensor.values<uint8_t>()) total += value;
    return total;
  };
  EXPECT_EQ(sum(), kBytes * 'x');
  const int64_t before = shared_pages();
  checkpoint.release("w");
  EXPECT_LT(shared_pages(), before - kBytes / ::sysconf(_SC_PAGESIZE) / 2);
  EXPECT_EQ(sum(), kBytes * 'x');
}

TEST_F(CheckpointTest, MetadataIsMergedAndTheFirstFileWins) {
  put_shards({{"a", "s1.safetensors"}, {"c", "s2.safetensors"}});
  const std::string a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  const std::string c = R"("c":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  put("s1.safetensors",
      raw_safetensors(R"({"__metadata__":{"format":"pt","x":"1"},)" + a + "}", "1"));
  put("s2.safetensors", raw_safetensors(R"({"__metadata__":{"x":"2","y":"3"},)" + c + "}", "2"));
  const auto metadata = Checkpoint::open(folder()).metadata();
  EXPECT_EQ(metadata,
            (std::map<std::string, std::string>{{"format", "pt"}, {"x", "1"}, {"y", "3"}}));
}

TEST_F(CheckpointTest, FindsTheQuantizationConfig) {
  put("model.safetensors", bytes_named({"a"}));
  put("config.json", R"({"quantization_config": {"bits": 4}})");
  EXPECT_EQ(Checkpoint::open(folder()).quantization_config()["bits"], 4);
  put("quant_config.json", R"({"bits": 2})");
  EXPECT_EQ(Checkpoint::open(folder()).quantization_config()["bits"], 4);
  put("config.json", R"({"quantization_config": null})");
  EXPECT_EQ(Checkpoint::open(folder()).quantization_config()["bits"], 2);
  put("quantize_config.json", R"({"bits": 3})");
  EXPECT_EQ(Checkpoint::open(folder()).quantization_config()["bits"], 3);
  put("config.json", R"({"quantization_config": 4})");
  EXPECT_THAT(refusal(), HasSubstr("quantization_config is not an object"));
}

TEST_F(CheckpointTest, SideFilesAreWhatACopyNeeds) {
  for (const char* name :
       {"tokenizer.json", "tokenizer.model", "LICENSE", "generation_config.json", "config.json",
        "quantize_config.json", "quant_config.json", "pytorch_model.bin",
        "pytorch_model.bin.index.json", "model.gguf", "flax_model.msgpack", "tf_model.h5",
        "consolidated.00.pth", ".gitattributes"}) {
    put(name, "{}");
  }
  fs::create_directory(at("onnx"));
  put("model.safetensors", bytes_named({"a"}));
  EXPECT_THAT(Checkpoint::open(folder()).side_files(),
              ElementsAre(at("LICENSE"), at("generation_config.json"), at("tokenizer.json"),
                          at("tokenizer.model")));
}

TEST_F(CheckpointTest, WhatIsNotThereIsNamed) {
  EXPECT_THAT(refusal("absent"), HasSubstr("absent: no such file or folder"));
  EXPECT_THAT(refusal(), HasSubstr("no model.safetensors and no model.safetensors.index.json"));
  put("model.safetensors", bytes_named({"a"}));
  EXPECT_THAT(refusal(), HasSubstr("no config.json"));
}

TEST_F(CheckpointTest, ConfigMustBeAnObject) {
  put("model.safetensors", bytes_named({"a"}));
  put("config.json", "[]");
  EXPECT_THAT(refusal(), HasSubstr("config.json: not a JSON object"));
  put("config.json", "{");
  EXPECT_THAT(refusal(), HasSubstr("config.json: not valid JSON"));
}

TEST_F(CheckpointTest, OtherKindsOfWeightsAreRefusedWithHelp) {
  put("config.json", "{}");
  put("pytorch_model.bin", "PK");
  EXPECT_THAT(refusal(), HasSubstr("pytorch_model.bin: no model.safetensors and no "
                                   "model.safetensors.index.json, but a pickle"));
  EXPECT_THAT(refusal("pytorch_model.bin"), HasSubstr("safe_serialization=True"));
  put("model.gguf", "GGUF");
  EXPECT_THAT(refusal("model.gguf"), HasSubstr("a GGUF file, where a folder is needed"));
  fs::remove(at("pytorch_model.bin"));
  EXPECT_THAT(refusal(), HasSubstr("give the path of the file itself"));
  put("gptq_model-4bit.safetensors", bytes_named({"a"}));
  EXPECT_THAT(refusal(), HasSubstr("give the path of that file"));
}

TEST_F(CheckpointTest, ShardsWithoutAnIndexAreRefused) {
  put("config.json", "{}");
  put("model-00001-of-00002.safetensors", bytes_named({"a"}));
  EXPECT_THAT(refusal(), HasSubstr("the index is missing"));
}

TEST_F(CheckpointTest, ASingleFileAndAnIndexCompete) {
  put_shards({{"a", "s1.safetensors"}, {"b", "s1.safetensors"}, {"c", "s2.safetensors"}});
  put("model.safetensors", bytes_named({"a"}));
  EXPECT_THAT(refusal(), HasSubstr("compete"));
}

TEST_F(CheckpointTest, AnIndexOfTheSingleFileDoesNotCompete) {
  put("config.json", "{}");
  put("model.safetensors", bytes_named({"a"}));
  put("model.safetensors.index.json", R"({"weight_map": {"a": "model.safetensors"}})");
  EXPECT_TRUE(Checkpoint::open(folder()).has("a"));
}

TEST_F(CheckpointTest, TheIndexMustNameWhatTheShardsHold) {
  put_shards({{"a", "s1.safetensors"},
              {"b", "s1.safetensors"},
              {"c", "s2.safetensors"},
              {"d", "s2.safetensors"}});
  EXPECT_THAT(refusal(), HasSubstr("tensor 'd': in no shard, but the index says s2.safetensors"));
}

TEST_F(CheckpointTest, ShardsMustHoldWhatTheIndexNames) {
  put_shards({{"a", "s1.safetensors"}, {"c", "s2.safetensors"}});
  EXPECT_THAT(refusal(), HasSubstr("s1.safetensors: tensor 'b': not in model.safetensors.index"));
}

TEST_F(CheckpointTest, TensorsMustBeInTheShardThatTheIndexNames) {
  put_shards({{"a", "s2.safetensors"}, {"b", "s1.safetensors"}, {"c", "s2.safetensors"}});
  EXPECT_THAT(refusal(), HasSubstr("tensor 'a': in s1.safetensors, but the index says s2"));
}

TEST_F(CheckpointTest, ATensorInTwoShardsIsRefused) {
  put_shards({{"a", "s1.safetensors"}, {"b", "s1.safetensors"}, {"c", "s2.safetensors"}});
  put("s2.safetensors", bytes_named({"c", "a"}));
  EXPECT_THAT(refusal(), HasSubstr("s2.safetensors: tensor 'a': also in s1.safetensors"));
}

TEST_F(CheckpointTest, AMissingShardIsNamed) {
  put_shards({{"a", "s1.safetensors"}, {"b", "s1.safetensors"}, {"c", "s2.safetensors"}});
  fs::remove(at("s2.safetensors"));
  EXPECT_THAT(refusal(), HasSubstr("s2.safetensors: no such file"));
}

TEST_F(CheckpointTest, ShardsMayNotLeaveTheFolder) {
  for (const std::string& shard :
       {std::string("../s1.safetensors"), at("s1.safetensors").string(),
        std::string("x/s1.safetensors"), std::string("x\\s1.safetensors"), std::string(""),
        std::string("."), std::string(".."), std::string("s1.safetensors\0x", 16)}) {
    put_shards({{"a", shard}});
    EXPECT_THAT(refusal(), HasSubstr("tensor 'a': its file is not a plain file name")) << shard;
  }
}

TEST_F(CheckpointTest, TheIndexMustHaveAWeightMap) {
  put_shards({});
  for (const char* index :
       {"{}", "[]", R"({"weight_map": []})", R"({"weight_map": {}})", R"({"weight_map": {"a": 1}})",
        R"({"weight_map": {"a": "x", "a": "y"}})"}) {
    put("model.safetensors.index.json", index);
    EXPECT_THAT(refusal(), HasSubstr("model.safetensors.index.json: ")) << index;
  }
}

TEST_F(CheckpointTest, BrokenShardsAreNamed) {
  put_shards({{"a", "s1.safetensors"}, {"b", "s1.safetensors"}, {"c", "s2.safetensors"}});
  put("s2.safetensors", bytes_named({"c"}) + "x");
  EXPECT_THAT(refusal(), HasSubstr("s2.safetensors: 1 bytes after the last tensor"));
}

TEST(RealCheckpoints, AreReadWhole) {
  NIBBLE_NEEDS_TEST_DATA();
  const fs::path models = test_data() / "models";
  EXPECT_EQ(Checkpoint::open(models / "bookworm-5m").bytes(), 11'540'992);
  EXPECT_EQ(Checkpoint::open(models / "tinystories-656k").tensors().size(), 20U);
  const Checkpoint tied = Checkpoint::open(models / "tinystories-656k-f32-tied");
  EXPECT_EQ(tied.metadata().at("model.embed_tokens.weight"), "lm_head.weight");
}

}  // namespace
}  // namespace nibble
