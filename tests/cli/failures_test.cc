// Inputs that must end in status 2, saying where, and leave nothing behind.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <csignal>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ios>
#include <string>

#include "formats/checkpoint.h"
#include "src/tensor/tensor.h"
#include "tests/cli/program.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

const fs::path kTiny = own_test_data() / "tiny";

// A copy of a tiny model with one 16-bit element of a tensor replaced.
void copy_with(const fs::path& model, const fs::path& copy, const std::string& tensor,
               int64_t element, uint16_t bits) {
  fs::copy(model, copy);
  std::string bytes = read_file(copy / "model.safetensors");
  const Tensor found = Checkpoint::open(model).tensor(tensor);
  const auto* first = reinterpret_cast<const char*>(found.bytes().data());
  const size_t place = bytes.find(std::string(first, found.bytes().size()));
  ASSERT_NE(place, std::string::npos);
  std::memcpy(bytes.data() + place + 2 * static_cast<size_t>(element), &bits, sizeof bits);
  write_file(copy / "model.safetensors", bytes);
}

void expect_only(const fs::path& folder, const std::string& entry) {
  for (const auto& found : fs::directory_iterator(folder)) {
    EXPECT_EQ(found.path().filename(), entry);
  }
}

TEST(Failures, EveryHostileFileEndsInStatusTwoAndNamesTheFile) {
  int64_t files = 0;
  for (const auto& entry :
       fs::directory_iterator(own_test_data().parent_path() / "golden" / "hostile")) {
    if (entry.path().extension() != ".safetensors") continue;
    const ProgramResult result = run_nibble({"inspect", entry.path()});
    EXPECT_EQ(result.status, 2) << entry.path();
    EXPECT_NE(result.err.find(entry.path().filename().string()), std::string::npos) << result.err;
    ++files;
  }
  EXPECT_GE(files, 40);
}

TEST(Failures, NanInAWeightNamesItsPlaceAndLeavesNoFolder) {
  const TemporaryFolder folder;
  const std::string tensor = "model.layers.1.mlp.down_proj.weight";
  copy_with(kTiny / "llama", folder.path() / "model", tensor, 3, 0x7E00);
  const ProgramResult result =
      run_nibble({"quantize", folder.path() / "model", "-o", folder.path() / "out", "-g", "32"});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("model.layers.1.mlp.down_proj"), std::string::npos) << result.err;
  expect_only(folder.path(), "model");
}

TEST(Failures, Bf16BeyondF16IsAnErrorWithItsPlace) {
  const TemporaryFolder folder;
  const std::string tensor = "model.norm.weight";
  copy_with(kTiny / "qwen2", folder.path() / "model", tensor, 5, 0x7F00);  // 1.7e38
  const ProgramResult result = run_nibble({"quantize", folder.path() / "model", "-o",
                                           folder.path() / "out", "-g", "32", "--dtype", "f16"});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find(tensor), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("element 5"), std::string::npos) << result.err;
  expect_only(folder.path(), "model");
}

TEST(Failures, Bf16ThatBecomesZeroInF16IsCounted) {
  const TemporaryFolder folder;
  copy_with(kTiny / "qwen2", folder.path() / "model", "model.norm.weight", 5, 0x0080);  // 1.2e-38
  const ProgramResult result = run_nibble({"quantize", folder.path() / "model", "-o",
                                           folder.path() / "out", "-g", "32", "--dtype", "f16"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_NE(result.err.find("1 values of unquantized tensors became zero"), std::string::npos)
      << result.err;
}

TEST(Failures, AGroupSizeThatDoesNotDivideNamesTheModuleAndFormatsThatHoldIt) {
  const TemporaryFolder folder;
  const ProgramResult result = run_nibble(
      {"quantize", kTiny / "llama", "-o", folder.path() / "out", "-g", "48", "-f", "gptq"});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("q_proj"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("nibble"), std::string::npos) << result.err;
  EXPECT_TRUE(fs::is_empty(folder.path()));
  EXPECT_EQ(run_nibble({"quantize", kTiny / "llama", "-o", folder.path() / "out", "-g", "48", "-f",
                        "nibble"})
                .status,
            0);
}

TEST(Failures, AGroupSizeBeyondAnyRowIsAnError) {
  const TemporaryFolder folder;
  const ProgramResult result = run_nibble({"quantize", kTiny / "llama", "-o", folder.path() / "out",
                                           "-g", "9223372036854775807", "-f", "nibble"});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("group size: 9223372036854775807"), std::string::npos) << result.err;
}

TEST(Failures, TheModelItselfIsNoOutput) {
  const TemporaryFolder folder;
  fs::copy(kTiny / "llama", folder.path() / "model");
  const std::string before = read_file(folder.path() / "model" / "model.safetensors");
  const ProgramResult result = run_nibble({"quantize", folder.path() / "model", "-g", "32", "-o",
                                           folder.path() / "model" / ".", "--force"});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("is the model that is read"), std::string::npos) << result.err;
  EXPECT_EQ(read_file(folder.path() / "model" / "model.safetensors"), before);
  expect_only(folder.path(), "model");
}

TEST(Failures, WhatAKilledRunLeftIsRemovedAndSaid) {
  const TemporaryFolder folder;
  fs::create_directory(folder.path() / "out.partial-1");
  write_file(folder.path() / "out.partial-1" / "model.safetensors", "half");
  const ProgramResult result =
      run_nibble({"quantize", kTiny / "llama", "-o", folder.path() / "out", "-g", "32"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_NE(result.err.find("out.partial-1: removed, left by a run that was killed"),
            std::string::npos)
      << result.err;
  expect_only(folder.path(), "out");
}

// The run waits for the dataset when the signal comes, and ends at its first report of progress.
TEST(Failures, AnInterruptedRunLeavesNothing) {
  const TemporaryFolder folder;
  const fs::path ids = folder.path() / "ids.npy";
  ASSERT_EQ(mkfifo(ids.c_str(), 0600), 0);
  const ProgramResult result = run_nibble_with(
      {"calibrate", kTiny / "llama", "-d", ids, "-o", folder.path() / "stats", "--seq-len", "16"},
      [&](auto program) {
        std::ofstream pipe(ids, std::ios::binary);  // opens when the program does
        kill(program, SIGINT);
        pipe << read_file(kTiny / "ids.npy");
      });
  EXPECT_EQ(result.status, 128 + SIGINT);
  EXPECT_NE(result.err.find("interrupted"), std::string::npos) << result.err;
  expect_only(folder.path(), "ids.npy");
}

TEST(Failures, ResultsThatCannotBePrintedAreAnError) {
  EXPECT_EQ(run_nibble({"list"}, {}, 1).status, 2);
}

TEST(Failures, AFullDiskLeavesNoFolder) {
  const TemporaryFolder folder;
  const fs::path limited = folder.path() / "full";
  fs::create_directory(limited);
  const ProgramResult result =
      run_nibble({"quantize", own_test_data() / "bookworm-5m", "-o", limited / "out"}, {}, 1 << 20);
  EXPECT_EQ(result.status, 2) << result.err;
  EXPECT_TRUE(fs::is_empty(limited));
}

TEST(Failures, ADatasetOfIdsBeyondTheVocabularyIsAnError) {
  const TemporaryFolder folder;
  const fs::path ids = folder.path() / "ids.bin";
  std::string bytes;
  for (int i = 0; i < 64; ++i) bytes += std::string("\xFF\xFE", 2);
  write_file(ids, bytes);
  const ProgramResult result =
      run_nibble({"evaluate", kTiny / "llama", "-d", ids, "--seq-len", "16"});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("65279"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace nibble
