// export between every pair of formats: the same codes and parameters, or the same weights on
// another grid, or the reason why neither.
#include "src/pipeline/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/model/layout.h"
#include "src/model/open_checkpoint.h"
#include "src/pipeline/fingerprint.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"
#include "tests/formats/layers.h"
#include "tests/formats/raw_safetensors.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr int64_t kHidden = 256;
constexpr const char* kSameWeights = "the same weights";

struct Case {
  std::string name;
  Scheme scheme;
  bool column_groups = false;
  std::vector<std::string> exact;  // formats that hold its codes
  // kSameWeights, or part of the refusal; formats in neither list refuse with any reason.
  std::map<std::string, std::string> others;
};

std::vector<Case> cases() {
  const std::vector<std::string> four_bits = {"compressed-tensors", "gptq",     "awq",   "awq-gemv",
                                              "awq-gemv-fast",      "tinychat", "nibble"};
  std::vector<std::string> and_gguf = four_bits;
  and_gguf.emplace_back("gguf");
  const std::string bnb = "it holds nf4, fp4 and llm-int8";
  const auto no_awq = [](std::map<std::string, std::string> others, const std::string& reason) {
    for (const char* name : {"awq", "awq-gemv", "awq-gemv-fast", "tinychat"}) {
      others.emplace(name, reason);
    }
    return others;
  };
  const auto integers = [](int bits, int64_t group, bool symmetric) {
    return integer_scheme(bits, group, symmetric, Dtype::kF16);
  };
  const std::string no_integers = "it holds integers, not ";
  std::map<std::string, std::string> tables = no_awq(
      {{"compressed-tensors", no_integers}, {"gptq", no_integers}, {"gguf", "its levels are no"}},
      no_integers);
  return {
      {"Int4G32Symmetric", integers(4, 32, true), false, and_gguf, {{"bitsandbytes", bnb}}},
      {"Int4G128Symmetric",
       integers(4, 128, true),
       false,
       four_bits,
       {{"bitsandbytes", bnb}, {"gguf", kSameWeights}}},
      {"Int4ChannelSymmetric",
       integers(4, kAll, true),
       false,
       four_bits,
       {{"bitsandbytes", bnb}, {"gguf", kSameWeights}}},
      {"Int4G32Asymmetric",
       integers(4, 32, false),
       false,
       four_bits,
       {{"bitsandbytes", bnb}, {"gguf", kSameWeights}}},
      {"Int4G64Asymmetric",
       integers(4, 64, false),
       false,
       four_bits,
       {{"bitsandbytes", bnb}, {"gguf", kSameWeights}}},
      {"Int4G16Symmetric",
       integers(4, 16, true),
       false,
       {"compressed-tensors", "gptq", "awq", "nibble"},
       {{"bitsandbytes", bnb},
        {"gguf", "groups of 16 columns are not made of 32"},
        {"awq-gemv", "groups have 32, 64, 128 or more"},
        {"awq-gemv-fast", "groups have 32, 64, 128 or more"},
        {"tinychat", "groups have 32, 64, 128 or more"}}},
      {"Int8G32Symmetric",
       integers(8, 32, true),
       false,
       {"compressed-tensors", "gptq", "nibble", "gguf"},
       no_awq({{"bitsandbytes", bnb}}, "4 bits only, not 8")},
      {"Int8ChannelAsymmetric",
       integers(8, kAll, false),
       false,
       {"compressed-tensors", "gptq", "nibble"},
       no_awq({{"bitsandbytes", bnb}, {"gguf", "as q8_0: row 0, group 0 has the level"}},
              "4 bits only, not 8")},
      {"Int3G64Asymmetric",
       integers(3, 64, false),
       false,
       {"compressed-tensors", "gptq", "nibble"},
       no_awq({{"bitsandbytes", bnb}, {"gguf", kSameWeights}}, "4 bits only, not 3")},
      {"Int2G32Symmetric",
       integers(2, 32, true),
       false,
       {"compressed-tensors", "gptq", "nibble"},
       no_awq({{"bitsandbytes", bnb}, {"gguf", kSameWeights}}, "4 bits only, not 2")},
      {"Int4G32ActOrder",
       integers(4, 32, true),
       true,
       {"compressed-tensors", "gptq", "nibble"},
       no_awq({{"bitsandbytes", bnb}, {"gguf", "act-order"}}, "act-order")},
      {"Nf4", nf4_scheme(64, false), false, {"bitsandbytes", "nibble"}, tables},
      {"Nf4DoubleQuantized", nf4_scheme(64, true), false, {"bitsandbytes", "nibble"}, tables},
      {"Q4K",
       ggml_scheme("q4_k")->scheme,
       false,
       {"gguf", "nibble"},
       no_awq({{"compressed-tensors", "it has zero points, not minima"},
               {"gptq", "it has zero points, not minima"},
               {"bitsandbytes", bnb}},
              "it has zero points, not minima")},
      {"Q41",
       ggml_scheme("q4_1")->scheme,
       false,
       {"gguf", "nibble"},
       no_awq({{"compressed-tensors", "has a minimum that is no multiple of its scale"},
               {"gptq", "has a minimum that is no multiple of its scale"},
               {"bitsandbytes", bnb}},
              "has a minimum that is no multiple of its scale")},
      {"Iq4Nl",
       ggml_scheme("iq4_nl")->scheme,
       false,
       {"gguf", "nibble"},
       no_awq({{"compressed-tensors", no_integers}, {"gptq", no_integers}, {"bitsandbytes", bnb}},
              no_integers)},
  };
}

// A Llama of one block whose seven layers are random ones of the case, in our own format.
class Model {
 public:
  explicit Model(const Case& c) {
    uint32_t seed = 1;
    std::vector<FormatModule> modules;
    for (const char* name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                             "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      const std::string module = std::string("model.layers.0.") + name;
      layers[module] = random_layer(c.scheme, kHidden, kHidden, seed++, c.column_groups);
      modules.push_back(module_of(module, layers[module]));
      for (NamedTensor& part : format("nibble").encode(modules.back(), layers[module])) {
        tensors_.push_back(std::move(part));
      }
    }
    const int64_t vocabulary = 4096;  // of the tokenizer
    tensors_.push_back(
        {"model.embed_tokens.weight", Tensor::allocate(Dtype::kF16, {vocabulary, kHidden})});
    for (const char* norm : {"model.norm", "model.layers.0.input_layernorm",
                             "model.layers.0.post_attention_layernorm"}) {
      tensors_.push_back({std::string(norm) + ".weight", Tensor::allocate(Dtype::kF16, {kHidden})});
    }
    config_ = {{"model_type", "llama"},
               {"hidden_size", kHidden},
               {"intermediate_size", kHidden},
               {"num_hidden_layers", 1},
               {"num_attention_heads", 4},
               {"vocab_size", vocabulary},
               {"max_position_embeddings", 64},
               {"rms_norm_eps", 1e-5},
               {"hidden_act", "silu"},
               {"tie_word_embeddings", true},
               {"dtype", "float16"},
               {"quantization_config", format("nibble").config(modules)}};
  }

  void write(const fs::path& folder) const {
    Json header = Json::object();
    std::string data;
    for (const auto& [name, tensor] : tensors_) {
      const size_t begin = data.size();
      data.append(reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size());
      header[name] = {{"dtype", dtype_name(tensor.dtype())},
                      {"shape", tensor.shape()},
                      {"data_offsets", {begin, data.size()}}};
    }
    fs::create_directories(folder);
    write_file(folder / "config.json", config_.dump());
    write_file(folder / "model.safetensors", raw_safetensors(header.dump(), data));
    for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) {
      fs::copy(own_test_data() / "bookworm-5m" / file, folder / file);
    }
  }

  std::map<std::string, QuantizedLinear> layers;

 private:
  Json config_;
  std::vector<NamedTensor> tensors_;
};

void export_model(const fs::path& from, const std::string& format, const fs::path& to) {
  ExportOptions options;
  options.format = format;
  options.output.folder = to;
  options.output.force = true;
  export_checkpoint(std::make_shared<const Checkpoint>(open_checkpoint(from)), options, {});
}

QuantizedLinear repacked_for(const std::string& target, const QuantizedLinear& q) {
  return repacked(q, module_of("m", q), format(target), Dtype::kF16);
}

class ExportMatrix : public testing::TestWithParam<Case> {};

// What export does to each layer, through the tensors of both formats.
TEST_P(ExportMatrix, EveryPairIsExactOrSaysWhyNot) {
  const Case& c = GetParam();
  const QuantizedLinear q = random_layer(c.scheme, kHidden, kHidden, 1, c.column_groups);
  for (const std::string& source : c.exact) {
    const QuantizedLinear stored = round_trip(format(source), repacked_for(source, q));
    ASSERT_EQ(hash_of(stored), hash_of(q)) << "nibble to " << source;
    for (const Format& row : formats()) {
      const std::string target(row.name);
      if (target == "dense") continue;
      const std::string what = source + " to " + target;
      const bool exact = std::ranges::find(c.exact, target) != c.exact.end();
      const auto other = c.others.find(target);
      const std::string expected = other == c.others.end() ? "cannot hold" : other->second;
      if (!exact && expected != kSameWeights) {
        EXPECT_THAT(message_of<Error>([&] { repacked_for(target, stored); }), HasSubstr(expected))
            << what;
        continue;
      }
      const QuantizedLinear back = round_trip(row, repacked_for(target, stored));
      if (exact) {
        EXPECT_EQ(hash_of(back), hash_of(q)) << what;
      } else {
        EXPECT_EQ(dequantize(back), dequantize(q)) << what;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExportMatrix, testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

// GPTQModel's asymmetric version 1, whose zero points of 0 borrow from their neighbours, is written
// as version 2; nothing but the version changes.
TEST(Export, AsymmetricVersionOneBecomesVersionTwo) {
  const TemporaryFolder folder;
  const fs::path source = own_test_data() / "peers" / "gptqmodel-int4-g32-asymmetric-v1";
  std::string previous = source;
  for (const std::string target : {"gptq", "compressed-tensors", "awq", "nibble", "gptq"}) {
    const fs::path next = folder.path() / (fs::path(previous).filename().string() + "-" + target);
    export_model(previous, target, next);
    previous = next;
  }
  EXPECT_EQ(
      read_json(fs::path(previous) / "config.json")["quantization_config"]["checkpoint_format"],
      "gptq_v2");
  const Checkpoint before = Checkpoint::open(source);
  const Checkpoint after = Checkpoint::open(previous);
  const ModelLayout layout = read_layout(before);
  for (const LinearModule& module : layout.linears) {
    if (module.quantized_tensors.empty()) continue;
    EXPECT_EQ(hash_of(layout.format->decode(before, module.name, module.N, module.K)),
              hash_of(layout.format->decode(after, module.name, module.N, module.K)))
        << module.name;
  }
}

// Seven layers of groups of 128 in a GGUF of q4_0 blocks, and back as groups of 32.
TEST(Export, AWholeModelGoesToAnotherGridAndBack) {
  const TemporaryFolder folder;
  const Model model(cases()[1]);
  model.write(folder.path() / "base");
  export_model(folder.path() / "base", "gguf", folder.path() / "m.gguf");
  export_model(folder.path() / "m.gguf", "gptq", folder.path() / "gptq");
  const Checkpoint checkpoint = Checkpoint::open(folder.path() / "gptq");
  const ModelLayout layout = read_layout(checkpoint);
  ASSERT_EQ(layout.linears.size(), model.layers.size());
  for (const LinearModule& module : layout.linears) {
    const QuantizedLinear q = layout.format->decode(checkpoint, module.name, module.N, module.K);
    EXPECT_EQ(q.scheme, integer_scheme(4, 32, true, Dtype::kF16));
    EXPECT_EQ(dequantize(q), dequantize(model.layers.at(module.name))) << module.name;
  }
}

TEST(Export, TheManifestSaysWhereTheCodesComeFrom) {
  const TemporaryFolder folder;
  const Model model(cases().front());
  model.write(folder.path() / "base");
  write_file(folder.path() / "base" / "nibble.json",
             R"({"nibble": "0", "recipe": {"method": "rtn"}, "files": {}})");
  export_model(folder.path() / "base", "awq", folder.path() / "awq");
  const Json manifest = read_json(folder.path() / "awq" / "nibble.json");
  EXPECT_EQ(manifest["exported_from"], "nibble");
  EXPECT_EQ(manifest["recipe"], (Json{{"method", "rtn"}}));
  EXPECT_TRUE(manifest["files"].contains("model.safetensors"));
}

}  // namespace
}  // namespace nibble
