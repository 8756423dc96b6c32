// The contract of the command line, with the real program on the embedded model.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "formats/json.h"
#include "tests/cli/program.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

const std::string kModel = own_test_data() / "bookworm-5m";
const std::string kText = own_test_data() / "books.eval.sample.txt";

std::string model_bytes(const fs::path& folder) { return read_file(folder / "model.safetensors"); }

TEST(Cli, UnknownCommandsAndOptionsSuggestTheNearest) {
  const ProgramResult command = run_nibble({"quantise", kModel});
  EXPECT_EQ(command.status, 2);
  EXPECT_NE(command.err.find("did you mean 'quantize'?"), std::string::npos) << command.err;
  const ProgramResult option = run_nibble({"quantize", kModel, "-o", "x", "--simmetric"});
  EXPECT_EQ(option.status, 2);
  EXPECT_NE(option.err.find("did you mean '--symmetric'?"), std::string::npos) << option.err;
  const ProgramResult format = run_nibble({"quantize", kModel, "-o", "x", "-f", "gtpq"});
  EXPECT_EQ(format.status, 2);
  EXPECT_NE(format.err.find("did you mean 'gptq'?"), std::string::npos) << format.err;
  const ProgramResult method = run_nibble({"quantize", kModel, "-o", "x", "-m", "rnt"});
  EXPECT_EQ(method.status, 2);
  EXPECT_NE(method.err.find("did you mean 'rtn'?"), std::string::npos) << method.err;
}

TEST(Cli, AnOptionWithNothingToWorkOnIsAnError) {
  const auto expect_refused = [](std::vector<std::string> options) {
    const std::string option = options.front();
    options.insert(options.begin(), {"quantize", kModel, "-o", "/nonexistent/out", "-m", "rtn"});
    const ProgramResult result = run_nibble(options);
    EXPECT_EQ(result.status, 2);
    EXPECT_TRUE(result.err.starts_with("error: " + option + ": has nothing to work on"))
        << result.err;
  };
  for (const auto& [option, value] :
       std::vector<std::pair<std::string, std::string>>{{"--samples", "4"},
                                                        {"--seq-len", "8"},
                                                        {"--seed", "1"},
                                                        {"--correct-past", "0.5"},
                                                        {"--sweeps", "1"},
                                                        {"--damp", "0.1"},
                                                        {"--scale-search", "mse"},
                                                        {"--alpha", "0.5"},
                                                        {"--awq-search", "hessian"},
                                                        {"--percentile", "99"},
                                                        {"--overlap", "file"}}) {
    expect_refused({option, value});
  }
  for (const std::string option : {"--no-pack", "--true-sequential", "--guard", "--act-order",
                                   "--static-groups", "--clip", "--substitute"}) {
    expect_refused({option});
  }
}

TEST(Cli, RangesOfWeightsAreChosen) {
  const TemporaryFolder folder;
  const auto error_of = [&](const std::string& range, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"quantize",
                                          kModel,
                                          "-o",
                                          folder.path() / range,
                                          "-m",
                                          "rtn",
                                          "-b",
                                          "3",
                                          "--symmetric",
                                          "--include",
                                          "layers.1.self_attn.k_proj",
                                          "--weight-range",
                                          range};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Json report = run_json(arguments);
    EXPECT_EQ(report["recipe"]["weight_range"], range);
    return report["modules"][0]["weight_error"].get<double>();
  };
  const double whole = error_of("minmax");
  EXPECT_LT(error_of("mse"), 0.9 * whole);
  EXPECT_GT(error_of("percentile", {"--percentile", "70"}), 1.5 * whole);
  const ProgramResult result = run_nibble(
      {"quantize", kModel, "-o", folder.path() / "x", "-m", "nf4", "--weight-range", "mse"});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("--weight-range mse is for integers rounded to nearest, not nf4"),
            std::string::npos)
      << result.err;
}

TEST(Cli, NanIsNoNumber) {
  for (const std::string option : {"--max-perplexity", "--max-kl"}) {
    const ProgramResult result = run_nibble({"evaluate", kModel, "-d", "x", option, "nan"});
    EXPECT_EQ(result.status, 2);
    EXPECT_NE(result.err.find(option + ": nan is no number from 0"), std::string::npos)
        << result.err;
  }
}

TEST(Cli, RunsOnTheDeviceAskedForOrSaysWhyNot) {
  const TemporaryFolder folder;
  for (const std::vector<std::string>& common :
       {std::vector<std::string>{"evaluate", kModel, "-d", kText, "--limit", "512"},
        std::vector<std::string>{"generate", kModel, "-p", "Once", "-n", "2"},
        std::vector<std::string>{"calibrate", kModel, "-d", kText, "--samples", "1", "--seq-len",
                                 "32", "-o", folder.path() / "statistics.safetensors",
                                 "--force"}}) {
    SCOPED_TRACE(common.front());
    const auto with = [&](std::vector<std::string> more) {
      more.insert(more.begin(), common.begin(), common.end());
      return more;
    };
    EXPECT_EQ(run_json(with({}))["device"], "cpu");
    const ProgramResult cuda = run_nibble(with({"--device", "cuda"}));
    if (cuda.status != 0) {
      EXPECT_EQ(cuda.status, 2);
      EXPECT_TRUE(cuda.err.starts_with("error: --device: cuda: ")) << cuda.err;
    }
    EXPECT_EQ(run_json(with({"--device", "auto"}))["device"], cuda.status == 0 ? "cuda" : "cpu");
    const ProgramResult unknown = run_nibble(with({"--device", "cudo"}));
    EXPECT_EQ(unknown.status, 2);
    EXPECT_NE(unknown.err.find("did you mean 'cuda'?"), std::string::npos) << unknown.err;
    EXPECT_EQ(run_nibble(with({"--max-vram", "1G"})).status, 2);
  }
}

TEST(Cli, HelpAndVersionSucceed) {
  EXPECT_EQ(run_nibble({"--help"}).status, 0);
  EXPECT_EQ(run_nibble({"quantize", "--help"}).status, 0);
  EXPECT_EQ(run_nibble({"--version"}).status, 0);
  EXPECT_EQ(run_nibble({}).status, 2);
}

TEST(Cli, ErrorsAreOneJsonObjectWhenAskedFor) {
  const Json json = run_json({"inspect", "/nonexistent/model"}, 2);
  ASSERT_TRUE(json.contains("error"));
  EXPECT_FALSE(json["error"]["message"].get<std::string>().empty());
  EXPECT_TRUE(json["error"].contains("where"));
  EXPECT_TRUE(json["error"].contains("hint"));
}

TEST(Cli, QuantizeReportsTheContractsKeys) {
  const TemporaryFolder folder;
  const std::string output = folder.path() / "out";
  const Json json = run_json({"quantize", kModel, "-o", output});
  for (const char* key : {"output", "format", "method", "recipe", "bits_per_weight", "bytes_in",
                          "bytes_out", "seconds", "peak_ram_bytes", "modules", "warnings"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["format"], "compressed-tensors");
  EXPECT_EQ(json["modules"].size(), 6U * 7U);
  for (const char* key :
       {"name", "shape", "scheme", "weight_error", "output_error", "damping", "seconds", "note"}) {
    EXPECT_TRUE(json["modules"][0].contains(key)) << key;
  }
  // 4 bits, an F16 scale and a 4-bit zero point for 128 weights, and weight_shape (16 bytes a
  // layer)
  EXPECT_NEAR(json["bits_per_weight"].get<double>(), 4 + 20.0 / 128, 0.01);
  EXPECT_TRUE(fs::exists(fs::path(output) / "tokenizer.json"));
  EXPECT_TRUE(fs::exists(fs::path(output) / "nibble.json"));
  EXPECT_FALSE(fs::exists(fs::path(output) / "model.safetensors.index.json"));
}

TEST(Cli, AnExistingOutputNeedsForce) {
  const TemporaryFolder folder;
  const std::string output = folder.path() / "out";
  EXPECT_EQ(run_nibble({"quantize", kModel, "-o", output}).status, 0);
  const std::string before = model_bytes(output);
  const ProgramResult refused = run_nibble({"quantize", kModel, "-o", output, "-b", "8"});
  EXPECT_EQ(refused.status, 2);
  EXPECT_NE(refused.err.find("--force"), std::string::npos) << refused.err;
  EXPECT_EQ(model_bytes(output), before);
  EXPECT_EQ(run_nibble({"quantize", kModel, "-o", output, "-b", "8", "--force"}).status, 0);
  EXPECT_NE(model_bytes(output), before);
}

TEST(Cli, TheSameBytesWithOneAndTwoThreadsAndRunToRun) {
  const TemporaryFolder folder;
  const auto make = [&](const std::string& name, const std::string& threads) {
    const std::string output = folder.path() / name;
    EXPECT_EQ(run_nibble({"quantize", kModel, "-o", output, "--threads", threads}).status, 0);
    return model_bytes(output);
  };
  const std::string one = make("one", "1");
  EXPECT_EQ(one, make("two", "2"));
  EXPECT_EQ(one, make("again", "2"));
}

TEST(Cli, AQuantizedModelIsRefusedUnlessRequantizeIsAsked) {
  const TemporaryFolder folder;
  const std::string first = folder.path() / "first";
  const std::string second = folder.path() / "second";
  ASSERT_EQ(run_nibble({"quantize", kModel, "-o", first, "-b", "8"}).status, 0);
  const ProgramResult refused = run_nibble({"quantize", first, "-o", second});
  EXPECT_EQ(refused.status, 2);
  EXPECT_NE(refused.err.find("--requantize"), std::string::npos) << refused.err;
  EXPECT_FALSE(fs::exists(second));
  EXPECT_EQ(run_nibble({"quantize", first, "-o", second, "--requantize"}).status, 0);
}

TEST(Cli, ExportKeepsEveryCodeAroundTheFormats) {
  const TemporaryFolder folder;
  const auto path = [&](const std::string& name) { return (folder.path() / name).string(); };
  ASSERT_EQ(run_nibble({"quantize", kModel, "-o", path("ct"), "-f", "compressed-tensors"}).status,
            0);
  std::string previous = "ct";
  for (const std::string format : {"gptq", "awq", "nibble", "compressed-tensors"}) {
    const std::string next = path(previous + "-" + format);
    const ProgramResult result = run_nibble({"export", path(previous), "-f", format, "-o", next});
    ASSERT_EQ(result.status, 0) << result.err;
    previous = fs::path(next).filename();
  }
  EXPECT_EQ(model_bytes(path("ct")), model_bytes(path(previous)));
}

TEST(Cli, ExportRefusesWhatAFormatCannotHold) {
  const TemporaryFolder folder;
  const std::string w3 = folder.path() / "w3";
  const std::string awq = folder.path() / "awq";
  ASSERT_EQ(run_nibble({"quantize", kModel, "-o", w3, "-b", "3"}).status, 0);
  const ProgramResult result = run_nibble({"export", w3, "-f", "awq", "-o", awq});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("q_proj"), std::string::npos) << result.err;
  EXPECT_FALSE(fs::exists(awq));
}

TEST(Cli, EvaluateReportsTheContractsKeysAndGates) {
  const TemporaryFolder folder;
  const std::string w4 = folder.path() / "w4";
  ASSERT_EQ(run_nibble({"quantize", kModel, "-o", w4}).status, 0);
  const std::vector<std::string> arguments = {
      "evaluate", w4, "-d", kText, "--reference", kModel, "--seq-len", "256", "--limit", "4096"};
  const Json json = run_json(arguments);
  for (const char* key : {"model", "protocol", "seq_len", "windows", "tokens", "nll", "perplexity",
                          "perplexity_stderr", "seconds", "tokens_per_second", "peak_ram_bytes",
                          "reference_perplexity", "kl_divergence", "kl_p99", "top1_agreement"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["windows"], 16);
  EXPECT_EQ(json["tokens"], 16 * 255);
  EXPECT_GT(json["kl_divergence"].get<double>(), 0.001);
  EXPECT_LT(json["kl_divergence"].get<double>(), 0.1);
  auto gated = arguments;
  gated.insert(gated.end(), {"--max-kl", "0.0001"});
  EXPECT_EQ(run_nibble(gated).status, 1);
  gated.back() = "0.5";
  EXPECT_EQ(run_nibble(gated).status, 0);
}

TEST(Cli, AModelAgreesPerfectlyWithItself) {
  const Json json = run_json({"evaluate", kModel, "-d", kText, "--reference", kModel, "--limit",
                              "2048", "--seq-len", "512"});
  EXPECT_EQ(json["kl_divergence"].get<double>(), 0.0);
  EXPECT_EQ(json["top1_agreement"].get<double>(), 1.0);
  EXPECT_DOUBLE_EQ(json["perplexity"].get<double>(), json["reference_perplexity"].get<double>());
}

// "Packed" runs the codes through the kernels, "dense" is the same codes multiplied out in float32.
TEST(Cli, PackedKernelsGiveThePerplexityOfTheDequantizedWeights) {
  const TemporaryFolder folder;
  const std::string packed = folder.path() / "packed";
  const std::string dense = folder.path() / "dense";
  for (const std::string bits : {"4", "3", "8"}) {
    ASSERT_EQ(run_nibble({"quantize", kModel, "-o", packed, "-b", bits, "--force"}).status, 0);
    ASSERT_EQ(
        run_nibble({"export", packed, "-f", "dense", "--dtype", "f32", "-o", dense, "--force"})
            .status,
        0);
    const auto nll = [&](const std::string& model) {
      return run_json(
                 {"evaluate", model, "-d", kText, "--seq-len", "512", "--limit", "4096"})["nll"]
          .get<double>();
    };
    const double expected = nll(dense);
    EXPECT_NEAR(nll(packed), expected, 1e-4 * expected) << bits << " bits";
  }
}

// transformers 5.23, torch 2.15, float32, do_sample=False, 24 tokens.
TEST(Cli, GreedyGenerationEqualsTransformers) {
  const Json json = run_json({"generate", kModel, "-p", "The old man looked at the", "-n", "24"});
  EXPECT_EQ(
      json["text"],
      " man who had been a little girl, and he was a little girl, and he was a very good girl, "
      "and");
  EXPECT_EQ(json["tokens"], 24);
}

TEST(Cli, SampledGenerationRepeatsWithItsSeed) {
  const auto text = [](const std::string& seed) {
    return run_json({"generate", kModel, "-p", "The", "-n", "16", "--temperature", "1", "--seed",
                     seed})["text"];
  };
  EXPECT_EQ(text("1"), text("1"));
  EXPECT_NE(text("1"), text("2"));
}

TEST(Cli, APatternThatMatchesNothingIsAnError) {
  const TemporaryFolder folder;
  const std::string output = folder.path() / "out";
  const ProgramResult result =
      run_nibble({"quantize", kModel, "-o", output, "--exclude", "q_porj"});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("q_porj"), std::string::npos);
  EXPECT_FALSE(fs::exists(output));
}

TEST(Cli, ExcludedLayersKeepTheirBytes) {
  const TemporaryFolder folder;
  const std::string output = folder.path() / "out";
  const Json json = run_json({"quantize", kModel, "-o", output, "--exclude", "down_proj"});
  EXPECT_EQ(json["modules"].size(), 6U * 6U);
  const Json inspected = run_json({"inspect", output});
  bool found = false;
  for (const Json& tensor : inspected["tensors"]) {
    found = found || tensor["name"] == "model.layers.0.mlp.down_proj.weight";
  }
  EXPECT_TRUE(found);
  EXPECT_EQ(run_nibble({"evaluate", output, "-d", kText, "--limit", "512"}).status, 0);
}

TEST(Cli, AQuantizedTiedHeadIsUntiedAndSaid) {
  const TemporaryFolder folder;
  const std::string output = folder.path() / "out";
  const Json json = run_json({"quantize", kModel, "-o", output, "--output-head", "w8"});
  ASSERT_EQ(json["warnings"].size(), 1U);
  EXPECT_NE(json["warnings"][0].get<std::string>().find("untied"), std::string::npos);
  EXPECT_EQ(run_json({"inspect", output})["tied_embeddings"], false);
  EXPECT_EQ(run_nibble({"evaluate", output, "-d", kText, "--limit", "512"}).status, 0);
}

TEST(Cli, ListPrintsEveryTable) {
  const Json json = run_json({"list"});
  for (const char* table : {"methods", "solvers", "formats", "architectures"}) {
    ASSERT_TRUE(json.contains(table));
    EXPECT_FALSE(json[table].empty()) << table;
  }
  EXPECT_EQ(run_nibble({"list", "metods"}).status, 2);
}

}  // namespace
}  // namespace nibble
