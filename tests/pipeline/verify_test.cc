// A sound checkpoint verifies clean; each way of breaking it is reported as exactly that.
#include "src/pipeline/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/json.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"
#include "tests/formats/raw_safetensors.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const std::string kQuery = "model.layers.0.self_attn.q_proj";

// A checkpoint of tests/data in memory, to be changed and written.
class Copy {
 public:
  explicit Copy(const fs::path& source) {
    const Checkpoint checkpoint = Checkpoint::open(source);
    config = checkpoint.config();
    for (const auto& [name, stored] : checkpoint.tensors()) {
      const Tensor tensor = checkpoint.tensor(name);
      tensors[name] = Tensor::copy_of(tensor.dtype(), tensor.shape(), tensor.bytes());
    }
  }

  Json& quantization() { return config["quantization_config"]; }

  template <typename T>
  void set(const std::string& tensor, size_t element, T value) {
    tensors.at(tensor).mutable_values<T>()[element] = value;
  }

  // The last `second_shard` tensors in a file of their own, with an index.
  void write(const fs::path& folder, size_t second_shard = 0) const {
    fs::create_directories(folder);
    write_file(folder / "config.json", config.dump());
    std::map<std::string, Tensor> first = tensors;
    if (second_shard == 0) return write_shard(folder / "model.safetensors", first);
    std::map<std::string, Tensor> second;
    Json index;
    for (size_t i = 0; i < second_shard; ++i) second.insert(first.extract(std::prev(first.end())));
    for (const auto& [name, tensor] : first) index["weight_map"][name] = "a.safetensors";
    for (const auto& [name, tensor] : second) index["weight_map"][name] = "b.safetensors";
    write_shard(folder / "a.safetensors", first);
    write_shard(folder / "b.safetensors", second);
    write_file(folder / "model.safetensors.index.json", index.dump());
  }

  Json config;
  std::map<std::string, Tensor> tensors;

 private:
  static void write_shard(const fs::path& file, const std::map<std::string, Tensor>& tensors) {
    Json header = Json::object();
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      const size_t begin = data.size();
      data.append(reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size());
      header[name] = {{"dtype", dtype_name(tensor.dtype())},
                      {"shape", tensor.shape()},
                      {"data_offsets", {begin, data.size()}}};
    }
    write_file(file, raw_safetensors(header.dump(), data));
  }
};

Copy peer(const std::string& name) { return Copy(own_test_data() / "peers" / name); }

std::string text_of(const std::vector<VerifyProblem>& problems) {
  std::string text;
  for (const VerifyProblem& p : problems) {
    text += p.file + " | " + p.tensor + " | " + p.problem + "\n";
  }
  return text;
}

std::string problems_of(const Copy& copy) {
  const TemporaryFolder folder;
  copy.write(folder.path() / "model");
  return text_of(verify(folder.path() / "model", {}).problems);
}

struct Case {
  std::string name;
  std::string peer;
  std::function<void(Copy&)> damage;
  std::string expected;  // file | tensor | begin of the problem
};

std::vector<Case> cases() {
  const std::string gptq = "gptqmodel-int4-g32-asymmetric-v2";
  const std::string model = "model.safetensors | ";
  return {
      {"MissingPart", gptq, [](Copy& c) { c.tensors.erase(kQuery + ".scales"); },
       model + kQuery + ".qweight | '" + kQuery + ".scales' is missing beside it"},
      {"MissingModule", gptq,
       [](Copy& c) {
         for (const char* part : {".qweight", ".qzeros", ".scales", ".g_idx"}) {
           c.tensors.erase(kQuery + part);
         }
       },
       "| no tensor '" + kQuery + ".weight'"},
      {"MissingNorm", gptq, [](Copy& c) { c.tensors.erase("model.norm.weight"); },
       "| no tensor 'model.norm.weight'"},
      {"WrongShape", gptq,
       [](Copy& c) {
         c.tensors[kQuery + ".qzeros"] = Tensor::allocate(Dtype::kI32, {1, 8});
       },
       model + kQuery + ".qzeros | shape [1, 8], expected [2, 8]"},
      {"WrongType", gptq,
       [](Copy& c) {
         c.tensors[kQuery + ".scales"] = Tensor::allocate(Dtype::kI32, {2, 64});
       },
       model + kQuery + ".scales | I32, expected F16"},
      {"NotANumber", gptq, [](Copy& c) { c.set<uint16_t>(kQuery + ".scales", 67, 0x7E00); },
       model + kQuery + ".scales | 1 value is not finite, the first, NaN, at row 1, column 3"},
      {"Infinity", gptq,
       [](Copy& c) {
         c.set<uint16_t>(kQuery + ".scales", 5, 0xFC00);
         c.set<uint16_t>(kQuery + ".scales", 9, 0x7C00);
       },
       model + kQuery +
           ".scales | 2 values are not finite, the first, -infinity, at row 0, column 5"},
      {"NotANumberInANorm", gptq,
       [](Copy& c) {
         Tensor& norm = c.tensors.at("model.norm.weight");
         std::ranges::fill(norm.mutable_bytes(), std::byte{0xFF});
       },
       model + "model.norm.weight | 64 values are not finite, the first, NaN, at element 0"},
      {"ZeroScale", gptq, [](Copy& c) { c.set<uint16_t>(kQuery + ".scales", 3, 0); },
       model + kQuery +
           " | 1 scales are 0 though their codes are not, the first at row 3, group 0"},
      {"GroupOutOfRange", gptq, [](Copy& c) { c.set<int32_t>(kQuery + ".g_idx", 7, 2); },
       model + kQuery + ".g_idx | column 7 is in group 2, expected 0 to 1"},
      {"GroupsOutOfOrder", gptq,
       [](Copy& c) {
         c.set<int32_t>(kQuery + ".g_idx", 0, 1);
         c.set<int32_t>(kQuery + ".g_idx", 63, 0);
       },
       model + kQuery + " | g_idx is not k / group_size, but the config says desc_act false"},
      {"UnequalGroups", "gptqmodel-int4-g32-actorder",
       [](Copy& c) {
         const auto groups = c.tensors.at(kQuery + ".g_idx").mutable_values<int32_t>();
         *std::ranges::find(groups, 1) = 0;
       },
       model + kQuery + " | group 0 has 33 columns, gptq needs 32 in each"},
      {"ZeroPointsOfTheOtherVersion", "gptqmodel-int8-channel",
       [](Copy& c) { c.quantization()["checkpoint_format"] = "gptq_v2"; },
       model + kQuery + " | zero points of 127, the config says sym, which is 128 throughout"},
      {"OtherBits", gptq, [](Copy& c) { c.quantization()["bits"] = 8; },
       model + kQuery + ".qweight | shape [8, 64], expected [16, 64]"},
      {"OtherGroupSize", gptq, [](Copy& c) { c.quantization()["group_size"] = 16; },
       model + kQuery + ".qzeros | shape [2, 8], expected [4, 8]"},
      {"DenseAndNotExcluded", gptq,
       [](Copy& c) {
         for (const char* part : {".qweight", ".qzeros", ".scales", ".g_idx"}) {
           c.tensors.erase(kQuery + part);
         }
         c.tensors[kQuery + ".weight"] = Tensor::allocate(Dtype::kF16, {64, 64});
       },
       model + kQuery + " | is stored dense, but the config excludes no such module"},
      {"UnexpectedTensor", gptq,
       [](Copy& c) { c.tensors["model.extra"] = Tensor::allocate(Dtype::kF16, {4}); },
       model + "model.extra | is no part of model_type 'qwen2'"},
      {"SymmetricWithZeroPoints", "ct-int4-g32-asymmetric",
       [](Copy& c) { c.quantization()["config_groups"]["group_0"]["weights"]["symmetric"] = true; },
       model + kQuery + ".weight_zero_point | a zero point, but the config says symmetric"},
      {"StoredButIgnored", "ct-int4-g32-asymmetric",
       [](Copy& c) { c.quantization()["ignore"].push_back(kQuery); },
       model + kQuery + " | is stored quantized, but in the config's 'ignore'"},
      {"OtherRecordedShape", "ct-int4-g32-asymmetric",
       [](Copy& c) { c.set<int64_t>(kQuery + ".weight_shape", 0, 32); },
       model + kQuery + ".weight_shape | [32, 64], expected [64, 64] from config.json"},
      {"AwqWithoutZeroPoints", "gptqmodel-awq-int4-g32",
       [](Copy& c) { c.quantization()["zero_point"] = false; },
       model + kQuery + " | zero points other than 8, but the config says zero_point false"},
      {"AwqStoredButExcluded", "gptqmodel-awq-int4-g32",
       [](Copy& c) { c.quantization()["modules_to_not_convert"] = {"layers.0.self_attn.q_proj"}; },
       model + kQuery + " | is stored quantized, but in modules_to_not_convert"},
      {"OtherTable", "bnb-nf4-double",
       [](Copy& c) { c.quantization()["bnb_4bit_quant_type"] = "fp4"; },
       model + kQuery + " | is nf4, the config says fp4"},
      {"NotDoubleQuantized", "bnb-nf4-double",
       [](Copy& c) { c.quantization()["bnb_4bit_use_double_quant"] = false; },
       model + kQuery + " | is double-quantized, the config says false"},
      {"DamagedState", "bnb-nf4-double",
       [](Copy& c) { c.set<uint8_t>(kQuery + ".weight.quant_state.bitsandbytes__nf4", 0, 'x'); },
       model + kQuery + ".weight.quant_state.bitsandbytes__nf4 | "},
  };
}

class VerifyDamage : public testing::TestWithParam<Case> {};

// Of what the config says of all modules alike, every module is reported.
TEST_P(VerifyDamage, IsReportedAsExactlyThat) {
  Copy copy = peer(GetParam().peer);
  ASSERT_EQ(problems_of(copy), "");
  GetParam().damage(copy);
  const std::string problems = problems_of(copy);
  EXPECT_THAT(problems, HasSubstr(GetParam().expected));
  const std::string problem = GetParam().expected.substr(GetParam().expected.rfind(" | ") + 3, 7);
  std::istringstream lines(problems);
  for (std::string line; std::getline(lines, line);) EXPECT_THAT(line, HasSubstr(problem));
}

INSTANTIATE_TEST_SUITE_P(All, VerifyDamage, testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

TEST(Verify, CheckpointsOfPeersAreSound) {
  size_t checked = 0;
  for (const auto& entry : fs::directory_iterator(own_test_data() / "peers")) {
    const VerifyReport report = verify(entry.path(), {});
    EXPECT_EQ(text_of(report.problems), "") << entry.path();
    EXPECT_GE(report.modules, 14) << entry.path();
    ++checked;
  }
  EXPECT_GE(checked, 19U);
}

TEST(Verify, DenseModelsAreSoundToo) {
  for (const auto& entry : fs::directory_iterator(own_test_data() / "tiny")) {
    if (!entry.is_directory()) continue;
    const VerifyReport report = verify(entry.path(), {});
    EXPECT_EQ(text_of(report.problems), "") << entry.path();
    EXPECT_EQ(report.format, "");
  }
}

TEST(Verify, ModelsOfTheReferenceDataAreSound) {
  NIBBLE_NEEDS_TEST_DATA();
  for (const auto& entry : fs::directory_iterator(test_data() / "models")) {
    EXPECT_EQ(text_of(verify(entry.path(), {}).problems), "") << entry.path();
  }
}

// Two files, each broken in its own way, and a norm besides: none hides another.
TEST(Verify, EveryFindingIsListed) {
  Copy copy = peer("gptqmodel-int4-g32-asymmetric-v2");
  copy.set<uint16_t>(kQuery + ".scales", 67, 0x7E00);
  copy.tensors.erase("model.norm.weight");
  copy.tensors["model.extra"] = Tensor::allocate(Dtype::kF16, {4});
  copy.set<int32_t>("model.layers.1.mlp.up_proj.g_idx", 0, -1);
  const std::string problems = problems_of(copy);
  EXPECT_EQ(std::ranges::count(problems, '\n'), 4) << problems;
}

TEST(Verify, ShardsAndIndex) {
  const TemporaryFolder folder;
  const fs::path model = folder.path() / "model";
  const Copy copy = peer("gptqmodel-int4-g32-asymmetric-v2");
  copy.write(model, 9);
  EXPECT_EQ(text_of(verify(model, {}).problems), "");

  const std::string index = read_file(model / "model.safetensors.index.json");
  Json other = Json::parse(index);
  other["weight_map"]["model.norm.weight"] = "a.safetensors";
  other["weight_map"].erase("lm_head.weight");
  write_file(model / "model.safetensors.index.json", other.dump());
  EXPECT_EQ(text_of(verify(model, {}).problems),
            "model.safetensors.index.json | model.norm.weight | in b.safetensors, but the index "
            "says a.safetensors\n"
            "a.safetensors | lm_head.weight | not in model.safetensors.index.json\n");

  write_file(model / "model.safetensors.index.json", index);
  const std::string shard = read_file(model / "b.safetensors");
  write_file(model / "b.safetensors", shard.substr(0, shard.size() - 5));
  const std::vector<VerifyProblem> cut = verify(model, {}).problems;
  ASSERT_EQ(cut.size(), 1U) << text_of(cut);
  EXPECT_EQ(cut[0].file, "b.safetensors");

  fs::remove(model / "b.safetensors");
  EXPECT_EQ(text_of(verify(model, {}).problems),
            "b.safetensors |  | no such file (is a shard missing?)\n");
}

TEST(Verify, ACopyOfTheConfigMustAgree) {
  const TemporaryFolder folder;
  const fs::path model = folder.path() / "model";
  fs::copy(own_test_data() / "peers" / "gptqmodel-int3-g32", model);
  Json config = read_json(model / "quantize_config.json");
  config["bits"] = 4;
  write_file(model / "quantize_config.json", config.dump());
  EXPECT_EQ(text_of(verify(model, {}).problems),
            "quantize_config.json |  | bits 4, config.json's quantization_config says 3\n");
  write_file(model / "config.json", "{");
  const std::vector<VerifyProblem> problems = verify(model, {}).problems;
  ASSERT_EQ(problems.size(), 1U) << text_of(problems);
  EXPECT_EQ(problems[0].file, "config.json");
}

TEST(Verify, WhatCannotBeJudgedIsAnError) {
  const TemporaryFolder folder;
  const auto error_of = [&](const std::function<void(Copy&)>& change) {
    Copy copy = peer("gptqmodel-int3-g32");
    change(copy);
    copy.write(folder.path() / "model");
    return message_of<Error>([&] { verify(folder.path() / "model", {}); });
  };
  EXPECT_THAT(error_of([](Copy& c) { c.config["model_type"] = "lama"; }), HasSubstr("'lama'"));
  EXPECT_THAT(error_of([](Copy& c) { c.quantization()["quant_method"] = "hqq"; }),
              HasSubstr("not read yet"));
  EXPECT_THAT(message_of<Error>([&] { verify(folder.path() / "nothing", {}); }),
              HasSubstr("no such file"));
  fs::create_directory(folder.path() / "empty");
  EXPECT_THAT(message_of<Error>([&] { verify(folder.path() / "empty", {}); }),
              HasSubstr("model.safetensors"));
}

TEST(Verify, GgufFiles) {
  NIBBLE_NEEDS_TEST_DATA();
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "m.gguf";
  std::string bytes = read_file(test_data() / "models" / "tinystories-656k.q8_0.gguf");
  write_file(file, bytes.substr(0, bytes.size() / 2));
  std::vector<VerifyProblem> problems = verify(file, {}).problems;
  ASSERT_EQ(problems.size(), 1U) << text_of(problems);
  EXPECT_EQ(problems[0].file, "m.gguf");
  EXPECT_NE(problems[0].tensor, "");

  // The scale of the last block of the file's last quantized tensor.
  for (size_t i = 0; i < 8 * 34; ++i) bytes[bytes.size() / 2 + i] = static_cast<char>(0xFF);
  write_file(file, bytes);
  problems = verify(file, {}).problems;
  ASSERT_EQ(problems.size(), 1U) << text_of(problems);
  EXPECT_THAT(problems[0].problem, HasSubstr("NaN"));
}

}  // namespace
}  // namespace nibble
