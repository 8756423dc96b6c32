// GGUF files as output and input of the commands, with the real program.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "formats/gguf/container.h"
#include "formats/json.h"
#include "tests/cli/program.h"
#include "tests/golden/golden.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

const std::string kBookworm = own_test_data() / "bookworm-5m";
const std::string kSample = own_test_data() / "books.eval.sample.txt";

Json run_json(std::vector<std::string> arguments, int status = 0) {
  arguments.emplace_back("--json");
  const ProgramResult result = run_nibble(arguments);
  EXPECT_EQ(result.status, status) << result.err << result.out;
  return parse_json(result.out, "stdout");
}

double loss(const fs::path& model) {
  return run_json({"evaluate", model, "-d", kSample, "--limit", "1024", "--seq-len", "256"})["nll"];
}

bool same_tensors(const fs::path& a, const fs::path& b) {
  const auto x = GgufFile::open(a);
  const auto y = GgufFile::open(b);
  if (x->tensors().size() != y->tensors().size()) return false;
  for (const GgufTensor& tensor : x->tensors()) {
    const GgufTensor* other = y->find(tensor.name);
    if (other == nullptr || other->type != tensor.type || other->shape != tensor.shape ||
        !std::ranges::equal(x->bytes(tensor), y->bytes(*other))) {
      ADD_FAILURE() << tensor.name;
      return false;
    }
  }
  return true;
}

// Text goes through the file's own tokenizer.
TEST(CliGguf, AMixtureChoosesTheHeadItself) {
  const TemporaryFolder folder;
  const Json error = run_json({"quantize", kBookworm, "-o", folder.path() / "m.gguf", "--scheme",
                               "q4_k_m", "--output-head", "w8"},
                              2)["error"];
  EXPECT_EQ(error["where"], "--output-head w8");
  EXPECT_FALSE(fs::exists(folder.path() / "m.gguf"));
}

TEST(CliGguf, CodesAndLossAreTheSameInAFileAndInAFolder) {
  const TemporaryFolder folder;
  const fs::path& at = folder.path();
  for (const std::string type : {"q4_k", "q8_0"}) {
    const fs::path file = at / (type + ".gguf");
    run_json({"quantize", kBookworm, "-o", file, "--scheme", type});
    run_json({"export", file, "-f", "nibble", "-o", at / type});
    run_json({"export", at / type, "-f", "gguf", "-o", at / (type + "-again.gguf")});
    EXPECT_EQ(loss(file), loss(at / type)) << type;
    EXPECT_TRUE(same_tensors(file, at / (type + "-again.gguf"))) << type;
  }
}

TEST(CliGguf, AFileIsAModelToQuantize) {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "dense.gguf";
  run_json({"quantize", kBookworm, "-o", file, "--scheme", "q8_0", "--exclude", "."});
  EXPECT_EQ(loss(file), loss(kBookworm));
  run_json({"quantize", file, "-o", folder.path() / "a", "-m", "rtn", "-f", "gptq"});
  run_json({"quantize", kBookworm, "-o", folder.path() / "b", "-m", "rtn", "-f", "gptq"});
  EXPECT_EQ(loss(folder.path() / "a"), loss(folder.path() / "b"));
}

TEST(CliGguf, InAFolderItIsModelGguf) {
  const TemporaryFolder folder;
  const fs::path tiny = own_test_data() / "tiny" / "llama";
  run_json({"quantize", tiny, "-o", folder.path() / "new", "--scheme", "q4_0"});
  EXPECT_TRUE(fs::exists(folder.path() / "new" / "model.gguf"));
  const ProgramResult full =
      run_nibble({"quantize", tiny, "-o", folder.path() / "full", "--scheme", "q4_0"}, {}, 1 << 10);
  EXPECT_EQ(full.status, 2);
  EXPECT_FALSE(fs::exists(folder.path() / "full"));
}

// llama.cpp's own file: "All 15 Q8_0 tensors are bit-identical to plain rounding".
TEST(CliGguf, Q8_0IsLlamaCppsFileBitForBit) {
  NIBBLE_NEEDS_TEST_DATA();
  const TemporaryFolder folder;
  const fs::path models = test_data() / "models";
  const fs::path file = folder.path() / "ours.gguf";
  run_json({"quantize", models / "tinystories-656k", "-o", file, "--scheme", "q8_0", "--embeddings",
            "q8_0"});
  EXPECT_TRUE(same_tensors(models / "tinystories-656k.q8_0.gguf", file));
}

// bookworm-5m has the shape of the golden file's "llama-tied".
TEST(CliGguf, AMixtureHasTheTypesOfLlamaCppsFile) {
  const Json golden = golden_results("gguf_mixtures");
  const TemporaryFolder folder;
  for (const std::string name : {"q4_k_m", "q3_k_m"}) {
    const fs::path path = folder.path() / (name + ".gguf");
    run_json({"quantize", kBookworm, "-o", path, "--scheme", name});
    const auto file = GgufFile::open(path);
    EXPECT_EQ(file->metadata().integer("general.file_type"), name == "q4_k_m" ? 15 : 12);
    for (const auto& [layer, types] : golden["llama-tied"]["types"][name].items()) {
      std::istringstream list(types.get<std::string>());
      int block = 0;
      for (std::string type; list >> type; ++block) {
        const std::string prefix =
            layer == "token_embd" ? "" : "blk." + std::to_string(block) + ".";
        const GgufTensor* tensor = file->find(prefix + layer + ".weight");
        ASSERT_NE(tensor, nullptr) << prefix << layer;
        EXPECT_EQ(tensor->type->name, type) << prefix << layer << ", " << name;
      }
    }
  }
}

TEST(CliGguf, SubstitutesAreTakenWhereTheyAreAskedForAndNamed) {
  const TemporaryFolder folder;
  const std::string tiny = own_test_data() / "tiny" / "llama";
  const fs::path path = folder.path() / "m.gguf";
  const Json report =
      run_json({"quantize", tiny, "-o", path, "--scheme", "q4_k_m", "--substitute"});
  const auto file = GgufFile::open(path);
  EXPECT_EQ(file->find("blk.0.attn_q.weight")->type->name, "q5_0");
  EXPECT_EQ(file->find("token_embd.weight")->type->name, "q5_0");
  EXPECT_EQ(file->find("output.weight")->type->name, "q8_0");
  EXPECT_NE(report["warnings"].dump().find("model.layers.0.self_attn.q_proj: q5_0 instead of q4_k"),
            std::string::npos)
      << report["warnings"];
}

double output_errors(const Json& report) {
  double sum = 0;
  for (const Json& module : report["modules"]) sum += module["output_error"].get<double>();
  return sum;
}

// On the same statistics, which give both their scales.
TEST(CliGguf, StatisticsWeighScalesAndChooseCodes) {
  const TemporaryFolder folder;
  const fs::path& at = folder.path();
  run_json({"calibrate", kBookworm, "-d", kSample, "-o", at / "stats", "--seq-len", "256",
            "--samples", "8"});
  const auto errors = [&](const std::string& method, const std::string& type) {
    return output_errors(
        run_json({"quantize", kBookworm, "-o", at / (method + type + ".gguf"), "--scheme", type,
                  "-m", method, "--stats", at / "stats", "--no-guard", "--include", "layers.1."}));
  };
  for (const std::string type : {"q4_0", "q2_k"}) {
    EXPECT_LT(errors("gptq", type), 0.8 * errors("rtn", type)) << type;
  }
}

TEST(CliGguf, WhatDoesNotFitIsNamedWithWhatDoes) {
  const TemporaryFolder folder;
  const std::string tiny = own_test_data() / "tiny" / "llama";
  const Json error =
      run_json({"quantize", tiny, "-o", folder.path() / "m.gguf", "--scheme", "q4_k"}, 2)["error"];
  EXPECT_NE(error["where"].get<std::string>().find("model.layers.0.self_attn.q_proj"),
            std::string::npos);
  EXPECT_NE(error["message"].get<std::string>().find("these fit: q8_0, q5_1"), std::string::npos)
      << error;
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

}  // namespace
}  // namespace nibble
