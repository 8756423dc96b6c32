// nibble bench kernels: what it prints where there is no GPU, and what it refuses.
#include <gtest/gtest.h>

#include <string>

#include "formats/json.h"
#include "kernels/cuda/device_linear.h"
#include "tests/cli/program.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

TEST(Bench, ChecksTheLayersOfAModel) {
  const TemporaryFolder folder;
  const std::string model = folder.path() / "w4";
  ASSERT_EQ(run_nibble({"quantize", own_test_data() / "tiny" / "llama", "-o", model, "-b", "4",
                        "-g", "32"})
                .status,
            0);
  const Json json =
      run_json({"bench", "kernels", "--device", "cpu", "--check", "--no-timing", "--model", model});
  EXPECT_TRUE(json["gpu"].is_null());
  EXPECT_TRUE(json["passed"].get<bool>());
  int layers = 0;
  for (const Json& row : json["kernels"]) {
    EXPECT_TRUE(row["passed"].get<bool>()) << row.dump();
    EXPECT_LE(row["share_of_allowed_error"].get<double>(), 1.) << row.dump();
    EXPECT_FALSE(row.contains("microseconds")) << row.dump();
    layers += row["layer"] == "random" ? 0 : 1;
  }
  EXPECT_GT(layers, 0);
  EXPECT_GT(json["kernels"].size(), 200U);
}

TEST(Bench, AGpuThatIsAskedForAndMissingIsAnError) {
  if (cuda_refusal().empty()) GTEST_SKIP() << "there is a GPU";
  const ProgramResult result = run_nibble({"bench", "kernels", "--device", "cuda"});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find(cuda_refusal()), std::string::npos) << result.err;
}

TEST(Bench, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(run_nibble({"bench", "cakes"}).status, 2);
  EXPECT_EQ(run_nibble({"bench", "kernels", "--device", "tpu"}).status, 2);
  EXPECT_EQ(run_nibble({"bench", "kernels", "--no-timing"}).status, 2);
  const ProgramResult dense = run_nibble({"bench", "kernels", "--device", "cpu", "--no-timing",
                                          "--model", own_test_data() / "tiny" / "llama"});
  EXPECT_EQ(dense.status, 2);
  EXPECT_NE(dense.err.find("no quantized layers"), std::string::npos) << dense.err;
}

}  // namespace
}  // namespace nibble
