// Calibrated quantization through the real program, on a small random model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "formats/json.h"
#include "tests/cli/program.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

const std::string kTinyLlama = own_test_data() / "tiny" / "llama";
const std::string kIds = own_test_data() / "tiny" / "ids.npy";
const std::vector<std::string> kWindows = {"-d", kIds, "--seq-len", "16", "--samples", "32"};

std::vector<std::string> joined(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::string error_of(const std::vector<std::string>& arguments) {
  const ProgramResult result = run_nibble(arguments);
  EXPECT_EQ(result.status, 2) << result.out;
  return result.err;
}

class Calibration : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_.path() / name; }
  Json calibrate(const std::string& name, const std::vector<std::string>& more = {}) const {
    return run_json(joined(joined({"calibrate", kTinyLlama, "-o", path(name)}, kWindows), more));
  }
  Json quantize(const std::string& name, const std::vector<std::string>& more) const {
    return run_json(joined({"quantize", kTinyLlama, "-o", path(name), "--force"}, more));
  }
  std::string weights(const std::string& name) const {
    return read_file(fs::path(path(name)) / "model.safetensors");
  }

  TemporaryFolder folder_;
};

TEST_F(Calibration, ActOrderWithoutStaticGroupsKeepsTheGroupOfEveryColumn) {
  for (const std::string format : {"gptq", "compressed-tensors"}) {
    quantize(format, joined(kWindows, {"-m", "gptq", "-b", "4", "-g", "32", "--symmetric",
                                       "--no-static-groups", "-f", format}));
    EXPECT_NE(weights(format).find("g_idx"), std::string::npos) << format;
    run_json({"export", path(format), "-o", path("dense"), "-f", "dense", "--force"});
  }
}

TEST_F(Calibration, StatisticsServeTheFirstLayersAsTheRunningModelDoes) {
  const Json made = calibrate("stats");
  EXPECT_EQ(made["origin"]["windows"], 32);
  EXPECT_EQ(made["tokens"], 512);
  EXPECT_EQ(made["groups"].size(), 2U * 4U);
  EXPECT_EQ(static_cast<int64_t>(fs::file_size(path("stats"))), made["bytes_out"]);
  const Json saved = quantize("saved", {"--stats", path("stats"), "-b", "3", "-g", "32"});
  EXPECT_EQ(saved["calibration"]["past"], "original");
  const Json running = quantize(
      "running", joined(kWindows, {"-b", "3", "-g", "32", "--no-guard", "--correct-past", "0"}));
  EXPECT_EQ(running["calibration"]["past"], "quantized");
  EXPECT_EQ(saved["calibration"]["statistics"]["dataset"], running["calibration"]["dataset"]);
  for (size_t i = 0; i < 3; ++i) {  // q, k and v of the first block: nothing is quantized before
    EXPECT_EQ(saved["modules"][i]["output_error"], running["modules"][i]["output_error"]);
  }
  EXPECT_NE(saved["modules"][3]["output_error"], running["modules"][3]["output_error"]);
}

TEST_F(Calibration, StaticActivationsEndWhereTheirHistogramSays) {
  const std::vector<std::string> scheme = {"--scheme", "w8a8-static"};
  const auto divergence = [&](const std::vector<std::string>& more) {
    quantize("out", joined(scheme, more));
    return run_json(
               {"evaluate", path("out"), "--reference", kTinyLlama, "-d", kIds, "--seq-len", "16"})
        .at("kl_divergence")
        .get<double>();
  };
  const double mse = divergence(kWindows);
  const double extremes = divergence(joined(kWindows, {"--activation-range", "minmax"}));
  const double narrow =
      divergence(joined(kWindows, {"--activation-range", "percentile", "--percentile", "60"}));
  EXPECT_LT(mse, narrow);
  EXPECT_NE(mse, extremes);
  EXPECT_NE(weights("out"), "");

  // From a file: the same ranges for what no quantized layer comes before.
  calibrate("plain");
  const std::string missing =
      error_of(joined({"quantize", kTinyLlama, "-o", path("x"), "--stats", path("plain")}, scheme));
  EXPECT_NE(missing.find("calibrate --histograms"), std::string::npos) << missing;
  calibrate("histograms", {"--histograms", "--hold-out"});
  const auto note = [&](const std::vector<std::string>& more) {
    return quantize("out", joined(scheme, more))["modules"][0]["note"];
  };
  EXPECT_EQ(note({"--stats", path("histograms")}), note(kWindows));
  const std::string changed = error_of(joined({"quantize", kTinyLlama, "-o", path("x"), "--stats",
                                               path("histograms"), "-m", "smoothquant+gptq"},
                                              scheme));
  EXPECT_NE(changed.find("minmax"), std::string::npos) << changed;
  EXPECT_NE(error_of(joined({"quantize", kTinyLlama, "-o", path("x"), "-g", "32",
                             "--activation-range", "mse"},
                            kWindows))
                .find("no layer has static activations"),
            std::string::npos);
}

// Schemes with scales of scales: rtn and gptq make them, the format nibble holds them, they run.
TEST_F(Calibration, ScalesOfScalesAreMadeReadAndRun) {
  const std::vector<std::vector<std::string>> schemes = {
      {"--scheme", "w4a8", "-g", "32"}, {"--double-quant", "-f", "nibble", "-g", "32"}};
  for (const auto& scheme : schemes) {
    const Json rounded = quantize("rtn", joined(scheme, {"-m", "rtn"}));
    EXPECT_EQ(rounded["format"], "nibble");
    const Json solved = quantize("gptq", joined(joined(scheme, {"-m", "gptq"}), kWindows));
    const auto kl = [&](const std::string& name) {
      return run_json({"evaluate", path(name), "-d", kIds, "--seq-len", "16", "--reference",
                       kTinyLlama})["kl_divergence"]
          .get<double>();
    };
    EXPECT_LT(kl("rtn"), 0.4) << scheme[1];
    EXPECT_LT(kl("gptq"), 0.5 * kl("rtn")) << scheme[1];
    EXPECT_EQ(rounded["modules"][0]["scheme"], solved["modules"][0]["scheme"]);
  }
}

TEST_F(Calibration, StatisticsGiveTheSameBytesEveryTimeAndWithAnyNumberOfThreads) {
  calibrate("one", {"--threads", "1"});
  calibrate("two", {"--threads", "2"});
  EXPECT_EQ(read_file(path("one")), read_file(path("two")));
  quantize("a", {"--stats", path("one"), "-b", "2", "-g", "32", "--threads", "1"});
  quantize("b", {"--stats", path("two"), "-b", "2", "-g", "32", "--threads", "2"});
  EXPECT_EQ(weights("a"), weights("b"));
}

TEST_F(Calibration, StatisticsOfAnotherModelOrOtherWindowsAreRefused) {
  calibrate("stats");
  const std::string other = own_test_data() / "tiny" / "llama-biases";
  EXPECT_NE(error_of({"quantize", other, "-o", path("out"), "--stats", path("stats"), "-g", "32"})
                .find("statistics of another model"),
            std::string::npos);
  EXPECT_NE(error_of({"quantize", kTinyLlama, "-o", path("out"), "--stats", path("stats"), "-d",
                      kIds, "--seq-len", "8", "-g", "32"})
                .find("statistics of other windows"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(path("out")));
  quantize("out", joined({"--stats", path("stats"), "-g", "32"}, kWindows));
  EXPECT_NE(
      error_of(joined({"calibrate", kTinyLlama, "-o", path("stats")}, kWindows)).find("--force"),
      std::string::npos);
  EXPECT_NE(
      error_of({"quantize", kTinyLlama, "-o", path("out2"), "--stats", kTinyLlama, "-g", "32"})
          .find("statistics"),
      std::string::npos);
}

TEST_F(Calibration, TheGuardKeepsRoundToNearestWhereItIsBetterOnHeldOutWindows) {
  // 14 windows of 8 tokens for up to 96 inputs: the Hessian knows too little.
  const std::vector<std::string> few = {"-d", kIds, "--seq-len", "8", "--samples", "16"};
  run_json(joined({"calibrate", kTinyLlama, "-o", path("stats"), "--hold-out"}, few));
  const std::vector<std::string> options = {"--stats", path("stats"), "-b", "2", "-g", "32"};
  const Json guarded = quantize("guarded", options);
  const Json rounded = quantize("rounded", {"-m", "rtn", "-b", "2", "-g", "32"});
  int kept = 0;
  for (size_t i = 0; i < guarded["modules"].size(); ++i) {
    const Json& module = guarded["modules"][i];
    EXPECT_TRUE(module["held_out_error"].is_number());
    if (module["solver"] != "rtn") continue;
    ++kept;
    EXPECT_EQ(module["weight_error"], rounded["modules"][i]["weight_error"]);
    EXPECT_NE(module["note"].get<std::string>().find("round to nearest kept"), std::string::npos);
  }
  EXPECT_GT(kept, 0);
  EXPECT_LT(kept, 14);
  const Json unguarded = quantize("unguarded", joined(options, {"--no-guard"}));
  for (const Json& module : unguarded["modules"]) {
    EXPECT_EQ(module["solver"], "gptq");
    EXPECT_TRUE(module["held_out_error"].is_null());
  }
}

TEST_F(Calibration, StatisticsWithoutHeldOutWindowsSaySoWhereTheGuardIsWanted) {
  calibrate("stats");
  const ProgramResult result = run_nibble({"quantize", kTinyLlama, "-o", path("out"), "--stats",
                                           path("stats"), "-b", "2", "-g", "32", "--guard"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_NE(result.err.find("no guard"), std::string::npos) << result.err;
}

TEST_F(Calibration, RulesGiveLayersTheirOwnSchemesAndSolvers) {
  write_file(path("recipe.yaml"),
             "method: gptq\n"
             "group_size: 32\n"
             "rules:\n"
             "  - {modules: down_proj, bits: 8, solver: rtn}\n"
             "  - {modules: 'layers\\.0\\.', keep: true}\n");
  const Json json = quantize("out", joined({"--recipe", path("recipe.yaml"), "-b", "4"}, kWindows));
  ASSERT_EQ(json["modules"].size(), 8U);  // block 0 keeps all but down_proj
  EXPECT_EQ(json["modules"][0]["name"], "model.layers.0.mlp.down_proj");
  EXPECT_EQ(json["modules"][0]["scheme"], "int8 g32 asymmetric");
  EXPECT_EQ(json["modules"][0]["solver"], "rtn");
  EXPECT_EQ(json["modules"][1]["scheme"], "int4 g32 asymmetric");
  EXPECT_EQ(json["modules"][1]["solver"], "gptq");
  quantize("again", {"--recipe", path("out") + "/nibble.json"});
  EXPECT_EQ(weights("out"), weights("again"));
  write_file(path("unmatched.yaml"), "{group_size: 32, rules: [{modules: nothing, bits: 8}]}\n");
  EXPECT_NE(error_of({"quantize", kTinyLlama, "-o", path("x"), "--recipe", path("unmatched.yaml")})
                .find("'nothing' matches no linear layer"),
            std::string::npos);
}

TEST_F(Calibration, AFullDiskLeavesNoStatistics) {
  const ProgramResult result =
      run_nibble(joined({"calibrate", kTinyLlama, "-o", path("stats")}, kWindows), {}, 20000);
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("stats"), std::string::npos) << result.err;
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(Calibration, FloatsHaveNoScalesToSearch) {
  const std::vector<std::string> command =
      joined({"quantize", kTinyLlama, "-o", path("out"), "-m", "gptq", "--scheme", "fp8-dynamic"},
             kWindows);
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"--no-static-groups"}, {"--scale-search", "mse"}}) {
    EXPECT_THAT(error_of(joined(command, more)), testing::HasSubstr("scales of round to nearest"));
    EXPECT_FALSE(fs::exists(path("out")));
  }
  run_json(joined(command, {"--sweeps", "1"}));
}

TEST_F(Calibration, LlmInt8IsRoundedAlone) {
  const std::string error = error_of(joined(
      {"quantize", kTinyLlama, "-o", path("out"), "-m", "gptq", "--scheme", "llm-int8"}, kWindows));
  EXPECT_THAT(error, testing::HasSubstr("gptq does not choose codes of"));
}

}  // namespace
}  // namespace nibble
