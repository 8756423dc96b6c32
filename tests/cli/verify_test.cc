// `nibble verify` and the manifest, with the real program.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "formats/json.h"
#include "tests/cli/program.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

const std::string kVerifiedModel = own_test_data() / "tiny" / "llama";

TEST(CliVerify, OurOutputsAreSoundAndCarryAManifest) {
  const TemporaryFolder folder;
  const fs::path out = folder.path() / "out";
  run_json(
      {"quantize", kVerifiedModel, "-o", out, "-g", "32", "-f", "gptq", "--shard-size", "40000"});
  const Json report = run_json({"verify", out});
  EXPECT_EQ(report["ok"], true) << report;
  EXPECT_EQ(report["modules"], 14);
  EXPECT_GT(report["weight_files"].get<int>(), 1);
  const Json manifest = read_json(out / "nibble.json");
  EXPECT_EQ(report["files_compared"], manifest["files"].size());
  for (const auto& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename();
    EXPECT_EQ(manifest["files"].contains(name), name != "nibble.json") << name;
  }
  const ProgramResult text = run_nibble({"verify", out});
  EXPECT_EQ(text.status, 0);
  EXPECT_EQ(text.out.rfind("sound: gptq, 14 quantized layers", 0), 0U) << text.out;

  run_json({"export", out, "-f", "dense", "-o", folder.path() / "dense"});
  EXPECT_EQ(run_json({"verify", folder.path() / "dense"})["format"], nullptr);
}

// echo -n '{"a":1}' | sha256sum
TEST(CliVerify, HashesAreThoseOfSha256sum) {
  const TemporaryFolder folder;
  const fs::path model = folder.path() / "model";
  fs::copy(kVerifiedModel, model);
  write_file(model / "generation_config.json", "{\"a\":1}");
  run_json({"quantize", model, "-o", folder.path() / "out", "-g", "32"});
  EXPECT_EQ(read_json(folder.path() / "out" / "nibble.json")["files"]["generation_config.json"],
            Json({{"bytes", 7},
                  {"sha256", "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"}}));
}

TEST(CliVerify, RunsGiveTheSameManifest) {
  const TemporaryFolder folder;
  for (const char* name : {"a", "b"}) {
    run_json({"quantize", kVerifiedModel, "-o", folder.path() / name, "-g", "32"});
  }
  EXPECT_EQ(read_file(folder.path() / "a" / "nibble.json"),
            read_file(folder.path() / "b" / "nibble.json"));
}

TEST(CliVerify, ChangedCutAndMissingFilesAreStatusOne) {
  const TemporaryFolder folder;
  const fs::path out = folder.path() / "out";
  run_json({"quantize", kVerifiedModel, "-o", out, "-g", "32", "-f", "gptq"});
  std::string weights = read_file(out / "model.safetensors");
  weights[weights.size() - 4000] = static_cast<char>(weights[weights.size() - 4000] ^ 1);
  write_file(out / "model.safetensors", weights);
  Json report = run_json({"verify", out}, 1);
  ASSERT_EQ(report["problems"].size(), 1U) << report;
  EXPECT_EQ(report["problems"][0]["file"], "model.safetensors");
  EXPECT_NE(report["problems"][0]["problem"].get<std::string>().find("SHA-256"), std::string::npos);

  write_file(out / "quantize_config.json", "{}");
  EXPECT_EQ(run_json({"verify", out}, 1)["problems"].size(), 2U);
  fs::remove(out / "quantize_config.json");
  const ProgramResult text = run_nibble({"verify", out});
  EXPECT_EQ(text.status, 1);
  EXPECT_NE(text.out.find("quantize_config.json: is missing, nibble.json lists it"),
            std::string::npos)
      << text.out;
  EXPECT_NE(text.out.find("2 problems: "), std::string::npos);
}

TEST(CliVerify, WhatIsNoModelIsStatusTwo) {
  const TemporaryFolder folder;
  EXPECT_EQ(run_nibble({"verify", folder.path()}).status, 2);
  EXPECT_EQ(run_nibble({"verify", folder.path() / "nothing"}).status, 2);
}

}  // namespace
}  // namespace nibble
