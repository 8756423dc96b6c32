// Bytes of foreign packers (tools/golden/packings.py, packings_tensor_cores.py): packing gives
// them, unpacking reads them.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "formats/packing/awq.h"
#include "formats/packing/compressed_tensors.h"
#include "formats/packing/gptq.h"
#include "formats/packing/marlin.h"
#include "formats/packing/matrix.h"
#include "formats/packing/qserve.h"
#include "formats/packing/tinychat.h"

namespace nibble {
namespace {

struct Golden {
  int64_t N = 0, K = 0;
  std::vector<uint32_t> words;
};

// By layout and bits; all that have them.
using Goldens = std::map<std::pair<std::string, int>, std::vector<Golden>>;

Goldens read_goldens() {
  Goldens goldens;
  for (const char* name :
       {"packings_compressed_tensors", "packings_gptqmodel", "packings_tensor_cores"}) {
    std::ifstream file(std::filesystem::path(NIBBLE_SOURCE_DIR) / "tests" / "golden" /
                       (std::string(name) + ".json"));
    const auto content = nlohmann::json::parse(file);
    for (const auto& row : content.at("results")) {
      Golden golden{row.at("rows"), row.at("columns"), {}};
      for (const std::string word : row.at("words")) {
        golden.words.push_back(static_cast<uint32_t>(std::stoul(word, nullptr, 16)));
      }
      goldens[{row.at("layout"), row.at("bits")}].push_back(std::move(golden));
    }
  }
  return goldens;
}

// The formula in tools/golden/packings.py.
std::vector<uint8_t> codes_of(const Golden& golden, int bits) {
  std::vector<uint8_t> codes;
  for (int64_t n = 0; n < golden.N; ++n) {
    for (int64_t k = 0; k < golden.K; ++k) {
      codes.push_back(static_cast<uint8_t>((7 * n + 3 * k + n * k / 5) % (int64_t{1} << bits)));
    }
  }
  return codes;
}

template <typename P>
void expect_golden(const std::string& layout) {
  const Goldens goldens = read_goldens();
  const auto found = goldens.find({layout, P::kBits});
  ASSERT_NE(found, goldens.end()) << layout;
  for (const Golden& golden : found->second) {
    const std::vector<uint8_t> codes = codes_of(golden, P::kBits);
    ASSERT_EQ(P::words(golden.N, golden.K), static_cast<int64_t>(golden.words.size())) << layout;
    const std::vector<typename P::Word> theirs(golden.words.begin(), golden.words.end());
    std::vector<typename P::Word> words(theirs.size());
    pack_rows<P>(codes.data(), golden.N, golden.K, 0, golden.N, words.data());
    EXPECT_EQ(words, theirs) << layout << ", " << P::kBits << " bits";
    std::vector<uint8_t> back(codes.size());
    unpack_rows<P>(theirs.data(), golden.N, golden.K, 0, golden.N, back.data());
    EXPECT_EQ(back, codes) << layout << ", " << P::kBits << " bits";
  }
}

TEST(PackingGolden, CompressedTensors) {
  expect_golden<CompressedTensorsWeights<2>>("weights");
  expect_golden<CompressedTensorsWeights<3>>("weights");
  expect_golden<CompressedTensorsWeights<4>>("weights");
  expect_golden<CompressedTensorsWeights<8>>("weights");
  expect_golden<CompressedTensorsZeros<2>>("zeros");
  expect_golden<CompressedTensorsZeros<3>>("zeros");
  expect_golden<CompressedTensorsZeros<4>>("zeros");
  expect_golden<CompressedTensorsZeros<8>>("zeros");
}

TEST(PackingGolden, CompressedTensorsBefore2026) {
  expect_golden<CompressedTensorsPaddedWeights<3>>("weights_padded");
  expect_golden<CompressedTensorsPaddedZeros<3>>("zeros_padded");
}

TEST(PackingGolden, Gptq) {
  expect_golden<GptqWeights<2>>("gptq_qweight");
  expect_golden<GptqWeights<3>>("gptq_qweight");
  expect_golden<GptqWeights<4>>("gptq_qweight");
  expect_golden<GptqWeights<8>>("gptq_qweight");
  expect_golden<GptqZeros<2>>("gptq_v2_qzeros");
  expect_golden<GptqZeros<3>>("gptq_v2_qzeros");
  expect_golden<GptqZeros<4>>("gptq_v2_qzeros");
  expect_golden<GptqZeros<8>>("gptq_v2_qzeros");
}

// Zero points of 0 among them: GPTQModel's version 1 borrows from the neighbour.
template <int kBits>
void expect_version1_words() {
  const Goldens goldens = read_goldens();
  const Golden& version1 = goldens.at({"gptq_v1_qzeros", kBits})[0];
  const Golden& version2 = goldens.at({"gptq_v2_qzeros", kBits})[0];
  for (size_t i = 0; i < version1.words.size(); ++i) {
    ASSERT_EQ(gptq_word_from_v1<kBits>(version1.words[i]), version2.words[i]) << kBits << " bits";
  }
}

TEST(PackingGolden, GptqVersionOneZeroPoints) {
  expect_version1_words<2>();
  expect_version1_words<4>();
  expect_version1_words<8>();
  const Goldens goldens = read_goldens();
  const Golden& golden = goldens.at({"gptq_v1_qzeros", 3})[0];
  std::vector<uint8_t> fields(static_cast<size_t>(golden.N * golden.K));
  unpack_rows<GptqZeros<3>>(golden.words.data(), golden.N, golden.K, 0, golden.N, fields.data());
  for (uint8_t& field : fields) field = gptq_zero_from_v1<3>(field);
  EXPECT_EQ(fields, codes_of(golden, 3));
}

TEST(PackingGolden, Awq) {
  expect_golden<AwqCodes>("awq_qweight");
  expect_golden<AwqCodes>("awq_qzeros");
}

TEST(PackingGolden, AwqGemv) { expect_golden<AwqGemvCodes>("gemv_qweight"); }

TEST(PackingGolden, Tinychat) { expect_golden<TinychatCodes>("gemv_fast_qweight"); }

TEST(PackingGolden, Marlin) { expect_golden<MarlinCodes>("marlin"); }

TEST(PackingGolden, Qserve) { expect_golden<QserveCodes>("qserve"); }

// The scale of (n, g) is (32 + (5 n + 3 g) mod 32) / 2048: F16 0x2400 + 32 * the remainder.
void expect_scales(const std::string& layout, int64_t (*place)(int64_t n)) {
  const Goldens goldens = read_goldens();
  const Golden& golden = goldens.at({layout, 4})[0];
  for (int64_t n = 0; n < golden.N; ++n) {
    for (int64_t g = 0; g < golden.K; ++g) {
      const auto expected = static_cast<uint32_t>(0x2400 + (5 * n + 3 * g) % 32 * 32);
      ASSERT_EQ(golden.words[static_cast<size_t>(g * golden.N + place(n))], expected)
          << layout << " " << n << ", " << g;
    }
  }
}

TEST(PackingGolden, MarlinScales) {
  expect_scales("marlin_scales", marlin_scale_place);
  expect_scales("marlin_channel_scales", marlin_channel_scale_place);
}

TEST(PackingGolden, QserveScales) {
  const Goldens goldens = read_goldens();
  const Golden& golden = goldens.at({"qserve_scales", 4})[0];
  const std::vector<uint8_t> values = codes_of(golden, 4);
  for (int64_t n = 0; n < golden.N; ++n) {
    for (int64_t g = 0; g < golden.K; ++g) {
      ASSERT_EQ(golden.words[static_cast<size_t>(g * golden.N + qserve_scale_place(n))],
                values[static_cast<size_t>(n * golden.K + g)])
          << n << ", " << g;
    }
  }
}

}  // namespace
}  // namespace nibble
