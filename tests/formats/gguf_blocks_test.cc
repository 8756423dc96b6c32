// Blocks of every type: bytes of llama.cpp's quantizers with the values its reference gives them
// (NIBBLE_TEST_DATA/golden/gguf: rounded to BF16; tests/golden/gguf_blocks.json: all bits of the
// floats), back to the same bytes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "formats/gguf/blocks.h"
#include "formats/gguf/types.h"
#include "formats/json.h"
#include "src/quantized/ggml_fit.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"
#include "tests/formats/layers.h"
#include "tests/golden/golden.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

struct GoldenBlocks {
  const GgufType* type = nullptr;
  std::string blocks;
  std::vector<uint16_t> values;  // BF16
};

GoldenBlocks golden_blocks(const std::string& name) {
  const std::string bytes = read_file(test_data() / "golden" / "gguf" / name);
  uint32_t header[4];  // id, elements, bytes of blocks, bytes of values
  std::memcpy(header, bytes.data(), sizeof(header));
  GoldenBlocks golden;
  golden.type = gguf_type(header[0]);
  golden.blocks = bytes.substr(sizeof(header), header[2]);
  golden.values.resize(header[1]);
  EXPECT_EQ(header[3], 2 * header[1]);
  std::memcpy(golden.values.data(), bytes.data() + sizeof(header) + header[2], header[3]);
  return golden;
}

class GgufGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufGolden, DecodesToTheReferencesValuesAndBack) {
  NIBBLE_NEEDS_TEST_DATA();
  const GoldenBlocks golden = golden_blocks(GetParam());
  ASSERT_NE(golden.type, nullptr);
  const int64_t N = 16;
  const int64_t K = std::ssize(golden.values) / N;
  const auto bytes = std::as_bytes(std::span(golden.blocks));
  const QuantizedLinear q = decode_blocks(*golden.type, bytes, N, K, "golden");
  const Matrix W = dequantize(q);
  for (int64_t i = 0; i < W.size(); ++i) {
    ASSERT_EQ(float_to_bf16(W.data()[i]), golden.values[static_cast<size_t>(i)]) << i;
  }
  EXPECT_TRUE(std::ranges::equal(encode_blocks(*golden.type, q, "golden").bytes(), bytes));
}

INSTANTIATE_TEST_SUITE_P(AllFiles, GgufGolden,
                         ::testing::Values("smollm2_iq4_nl.bin", "smollm2_iq4_xs.bin",
                                           "smollm2_q3_k.bin", "smollm2_q4_0.bin",
                                           "smollm2_q4_1.bin", "smollm2_q4_k.bin",
                                           "smollm2_q5_1.bin", "smollm2_q5_k.bin",
                                           "smollm2_q6_k.bin", "smollm2_q8_0.bin",
                                           "synthetic_mxfp4.bin", "tinyllama_q2_k.bin",
                                           "tinyllama_q5_0.bin"));

// Big-endian.
std::vector<uint32_t> from_hex(const std::string& text, size_t digits) {
  std::vector<uint32_t> values;
  for (size_t i = 0; i < text.size(); i += digits) {
    values.push_back(static_cast<uint32_t>(std::stoul(text.substr(i, digits), nullptr, 16)));
  }
  return values;
}

TEST(GgufBlocksDecode, ToEveryBitOfTheReferencesFloats) {
  std::set<std::string> seen;
  for (const Json& entry : golden_results("gguf_blocks")) {
    const auto name = entry.at("type").get<std::string>();
    SCOPED_TRACE(name);
    const GgufType* type = gguf_type(name);
    ASSERT_NE(type, nullptr);
    seen.insert(name);
    const auto numbers = from_hex(entry.at("blocks").get<std::string>(), 2);
    const std::vector<uint8_t> blocks(numbers.begin(), numbers.end());
    const auto expected = from_hex(entry.at("values").get<std::string>(), 8);
    const auto bytes = std::as_bytes(std::span(blocks));
    const QuantizedLinear q = decode_blocks(*type, bytes, 2, std::ssize(expected) / 2, "golden");
    const Matrix W = dequantize(q);
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(W.data()[i]), expected[i]) << i;
    }
    EXPECT_TRUE(std::ranges::equal(encode_blocks(*type, q, "golden").bytes(), bytes));
  }
  for (const GgmlScheme& row : ggml_schemes()) EXPECT_TRUE(seen.contains(std::string(row.name)));
}

// As tools/golden/gguf_quantizers.py makes them.
Matrix quantizer_weights() {
  Matrix W(4, 512);
  uint32_t state = 7;
  for (int64_t i = 0; i < W.size(); ++i) {
    state = state * 1664525U + 1013904223U;
    const float x = static_cast<float>(state >> 8) * 0x1p-23F - 1.F;
    W.data()[i] = x * x * x;
  }
  W.row(1) = W.row(1).cwiseAbs().eval();
  W.row(2).head(256).setZero();
  W(2, 300) = -8.F;
  W.row(3) *= 0x1p-12F;
  return W;
}

std::vector<float> quantizer_importance() {
  std::vector<float> importance(512);
  for (size_t k = 0; k < importance.size(); ++k) {
    importance[k] = 1.F + static_cast<float>(k * 37 % 101) * 0.25F;
    if (k % 50 == 7) importance[k] *= 400.F;
    if (k % 61 == 3 || (k >= 320 && k < 336)) importance[k] = 0.F;
  }
  return importance;
}

class GgmlQuantizers : public ::testing::TestWithParam<const char*> {};

// "plain" or "weighed".
void expect_bytes_of_llama_cpp(const GgmlScheme& scheme, const char* kind,
                               std::span<const float> importance) {
  const Json results = golden_results("gguf_quantizers").at(std::string(scheme.name));
  const auto numbers = from_hex(results.at(kind).get<std::string>(), 2);
  const QuantizedLinear q = quantize_ggml(quantizer_weights(), scheme, importance, "layer");
  const GgufType& type = *gguf_type(scheme.name);
  const Tensor bytes = encode_blocks(type, q, "layer");
  const auto got = bytes.values<uint8_t>();
  ASSERT_EQ(got.size(), numbers.size());
  const auto block = static_cast<size_t>(type.block_bytes);
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i], numbers[i]) << "byte " << i % block << " of block " << i / block;
  }
}

TEST_P(GgmlQuantizers, GiveTheBytesOfLlamaCpp) {
  expect_bytes_of_llama_cpp(*ggml_scheme(GetParam()), "plain", {});
}

TEST_P(GgmlQuantizers, GiveTheBytesOfLlamaCppWithImportance) {
  expect_bytes_of_llama_cpp(*ggml_scheme(GetParam()), "weighed", quantizer_importance());
}

// 288 columns: one block beyond those that are searched side by side.
TEST_P(GgmlQuantizers, TakeRowsOfAnyNumberOfBlocks) {
  const GgmlScheme& scheme = *ggml_scheme(GetParam());
  if (scheme.block != 32) return;
  const Matrix W = quantizer_weights().rightCols(288);
  const Matrix last = W.rightCols(32);
  const std::vector<float> ones(288, 1.F);
  const Matrix all = dequantize(quantize_ggml(W, scheme, ones, "layer"));
  // The spread of a row is part of the weights: another one, other scales, but near.
  const Matrix alone = dequantize(quantize_ggml(last, scheme, std::span(ones).first(32), "layer"));
  EXPECT_LE((all.rightCols(32) - last).norm(), 1.5F * (alone - last).norm()) << scheme.name;
}

INSTANTIATE_TEST_SUITE_P(AllTypes, GgmlQuantizers,
                         ::testing::Values("q8_0", "q6_k", "q5_1", "q5_k", "q5_0", "q4_1", "q4_k",
                                           "q4_0", "iq4_nl", "iq4_xs", "mxfp4", "q3_k", "q2_k"));

TEST(GgmlQuantizers, RefuseWhatIsNotFinite) {
  Matrix W = quantizer_weights();
  W(1, 300) = std::numeric_limits<float>::quiet_NaN();
  try {
    quantize_ggml(W, *ggml_scheme("q4_k"), {}, "layer");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("layer: NaN at row 1, column 300"));
  }
  W.setConstant(1e30F);
  EXPECT_THROW(quantize_ggml(W, *ggml_scheme("q4_0"), {}, "layer"), Error);
  EXPECT_THROW(quantize_ggml(W.leftCols(48), *ggml_scheme("q4_0"), {}, "layer"), Error);
}

TEST(GgufBlocksRows, EverySchemeHasItsTypeAndItsBits) {
  for (const GgmlScheme& row : ggml_schemes()) {
    SCOPED_TRACE(row.name);
    const GgufType* type = gguf_type(row.name);
    ASSERT_NE(type, nullptr);
    EXPECT_TRUE(has_blocks(*type));
    EXPECT_EQ(type->block, row.block);
    EXPECT_EQ(block_type(row.scheme, 3 * row.block), type);
    EXPECT_EQ(block_type(row.scheme, 3 * row.block + 16), nullptr);
    EXPECT_EQ(bits_per_weight(row.scheme, 4, row.block),
              static_cast<double>(8 * type->block_bytes) / static_cast<double>(type->block));
  }
}

TEST(GgufBlocksRows, AnyLayerOfASchemeComesBackBitForBit) {
  for (const GgmlScheme& row : ggml_schemes()) {
    for (const int64_t N : {1, 3, 70}) {
      SCOPED_TRACE(row.name);
      const QuantizedLinear q = random_layer(row.scheme, N, 2 * row.block, 3);
      const GgufType* type = block_type(row.scheme, q.K);
      const Tensor bytes = encode_blocks(*type, q, "layer");
      const QuantizedLinear back = decode_blocks(*type, bytes.bytes(), q.N, q.K, "layer");
      EXPECT_EQ(fingerprint(back), fingerprint(q));
    }
  }
}

std::string decode_error_of(const char* type, size_t bytes, int64_t N, int64_t K,
                            uint8_t fill = 0) {
  const std::vector<uint8_t> blocks(bytes, fill);
  try {
    decode_blocks(*gguf_type(type), std::as_bytes(std::span(blocks)), N, K, "file: tensor 't'");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(GgufBlocksErrors, NameTensorAndReason) {
  EXPECT_THAT(decode_error_of("q4_0", 18, 1, 48), HasSubstr("tensor 't': rows of 48 weights"));
  EXPECT_THAT(decode_error_of("q4_0", 17, 1, 32), HasSubstr("17 bytes, expected 18"));
  EXPECT_THAT(decode_error_of("iq2_xxs", 66, 1, 256), HasSubstr("type iq2_xxs is not decoded"));
  EXPECT_THAT(decode_error_of("f16", 64, 1, 32), HasSubstr("type f16 is not decoded"));
  EXPECT_THAT(decode_error_of("q4_0", 36, 2, 32, 0xFF), HasSubstr("scales: NaN at row 0"));
  EXPECT_THAT(decode_error_of("mxfp4", 17, 1, 32, 0xFF), HasSubstr("scales: NaN at row 0"));
}

TEST(GgufBlocksErrors, RefuseCodesOfAnotherScheme) {
  const QuantizedLinear q = random_layer(ggml_scheme("q4_0")->scheme, 2, 64, 3);
  EXPECT_THROW(encode_blocks(*gguf_type("iq4_nl"), q, "layer"), Error);
  EXPECT_THROW(encode_blocks(*gguf_type("q4_1"), q, "layer"), Error);
}

}  // namespace
}  // namespace nibble
