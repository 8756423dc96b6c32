// AWQ's other versions: AutoAWQ's own bytes (tools/golden/packings_tensor_cores.py), both ways.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scaled_zeros.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"
#include "tests/formats/layers.h"

namespace nibble {
namespace {

using testing::HasSubstr;

constexpr int64_t kN = 16, kK = 128, kGroup = 32, kG = kK / kGroup;

int formula(int64_t n, int64_t k) { return static_cast<int>((7 * n + 3 * k + n * k / 5) % 16); }

// The layer that the script packed.
QuantizedLinear golden_layer() {
  QuantizedLinear q = random_layer(integer_scheme(4, kGroup, false, Dtype::kF16), kN, kK, 1);
  for (int64_t n = 0; n < kN; ++n) {
    for (int64_t k = 0; k < kK; ++k) {
      q.codes.mutable_values<uint8_t>()[n * kK + k] = static_cast<uint8_t>(formula(n, k));
    }
    for (int64_t g = 0; g < kG; ++g) {
      q.zero.values.mutable_values<uint8_t>()[n * kG + g] = static_cast<uint8_t>(formula(n, g));
      // (32 + (5 n + 3 g) mod 32) / 2048
      q.scale.values.mutable_values<uint16_t>()[n * kG + g] =
          static_cast<uint16_t>(0x2400 + (5 * n + 3 * g) % 32 * 32);
    }
  }
  return q;
}

// The array of that name, in the words of `tensor`.
std::vector<uint32_t> golden_words(const std::string& layout) {
  const Json file = read_json(std::filesystem::path(NIBBLE_SOURCE_DIR) / "tests" / "golden" /
                              "packings_tensor_cores.json");
  for (const Json& row : file.at("results")) {
    if (row.at("layout") != layout) continue;
    std::vector<uint32_t> words;
    for (const Json& word : row.at("words")) {
      words.push_back(static_cast<uint32_t>(std::stoul(word.get<std::string>(), nullptr, 16)));
    }
    return words;
  }
  return {};
}

std::vector<uint32_t> words_of(const Tensor& tensor) {
  std::vector<uint32_t> words;
  if (dtype_bits(tensor.dtype()) == 16) {
    for (const uint16_t word : tensor.values<uint16_t>()) words.push_back(word);
  } else {
    for (const uint32_t word : tensor.values<uint32_t>()) words.push_back(word);
  }
  return words;
}

void expect_golden(const std::string& format_name, const std::string& layout) {
  const QuantizedLinear q = golden_layer();
  Stored s = stored(format(format_name), q);
  for (const char* part : {"qweight", "qzeros", "scales"}) {
    EXPECT_EQ(words_of(s.at(std::string("m.") + part)), golden_words(layout + "_" + part)) << part;
  }
  EXPECT_EQ(fingerprint(round_trip(format(format_name), q)), fingerprint(q));
}

TEST(AwqGemv, WritesAutoAwqsBytes) { expect_golden("awq-gemv", "gemv"); }

TEST(AwqGemvFast, WritesAutoAwqsBytes) { expect_golden("awq-gemv-fast", "gemv_fast"); }

TEST(Tinychat, IsGemvFastUnderAnotherName) {
  const QuantizedLinear q = golden_layer();
  Stored fast = stored(format("awq-gemv-fast"), q);
  Stored tinychat = stored(format("tinychat"), q);
  EXPECT_EQ(words_of(tinychat.at("m.qweight")), words_of(fast.at("m.qweight")));
  EXPECT_EQ(words_of(tinychat.at("m.scaled_zeros")), words_of(fast.at("m.qzeros")));
  EXPECT_EQ(tinychat.config.at("backend"), "llm-awq");
  EXPECT_FALSE(tinychat.config.contains("version"));
  EXPECT_EQ(fast.config.at("version"), "gemv_fast");
}

// A decoder from formats/tinychat.md alone: what its kernels compute differs from ours by the
// rounding of the product, half a unit of F16.
TEST(Tinychat, AgreesWithADecoderFromThePage) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 64, false, Dtype::kF16), 24, 192, 12);
  Stored s = stored(format("tinychat"), q);
  const Matrix W = dequantize(q);
  for (int64_t n = 0; n < q.N; ++n) {
    for (int64_t k = 0; k < q.K; ++k) {
      const int64_t word = n / 4 * q.K + k / 64 * 64 + 16 * (n % 4) + k % 64 / 32 * 8 + k % 8;
      const uint16_t bits = s.at("m.qweight").values<uint16_t>()[static_cast<size_t>(word)];
      const int code = bits >> (4 * (k % 32 / 8)) & 15;
      const auto at = static_cast<size_t>(k / 64 * q.N + n);
      const float scale = f16_to_float(s.at("m.scales").values<uint16_t>()[at]);
      const float zero = f16_to_float(s.at("m.scaled_zeros").values<uint16_t>()[at]);
      ASSERT_NEAR(static_cast<float>(code) * scale + zero, W(n, k), std::abs(zero) / 2048)
          << n << ", " << k;
    }
  }
}

TEST(Tinychat, WorkedExample) {
  const QuantizedLinear q = golden_layer();
  Stored s = stored(format("tinychat"), q);
  const auto words = s.at("m.qweight").values<uint16_t>();
  EXPECT_EQ(words[0], 0x8080);
  EXPECT_EQ(words[1], 0xB3B3);
  const uint16_t scale = 0x2400;
  const uint8_t zero = 3;
  const Tensor scaled = scaled_zeros(Tensor::copy_of(Dtype::kF16, {1}, std::span(&scale, 1)),
                                     Tensor::copy_of(Dtype::kU8, {1}, std::span(&zero, 1)));
  EXPECT_EQ(scaled.values<uint16_t>()[0], 0xAA00);
}

TEST(Tinychat, AValueThatNoZeroPointGivesIsNamed) {
  const QuantizedLinear q = golden_layer();
  Stored s = stored(format("tinychat"), q);
  s.at("m.scaled_zeros").mutable_values<uint16_t>()[2 * kN + 5] = 0xB123;
  EXPECT_THAT(decode_error(format("tinychat"), s.config, s.tensors, kN, kK),
              HasSubstr("'m.scaled_zeros': row 2, column 5"));
}

TEST(Tinychat, AZeroPointThatIsLostIsRefused) {
  for (const uint16_t scale : {uint16_t{0}, uint16_t{0x7BFF}}) {  // 0 and 65504
    QuantizedLinear q = golden_layer();
    q.scale.values.mutable_values<uint16_t>()[5 * kG + 1] = scale;
    try {
      stored(format("tinychat"), q);
      ADD_FAILURE() << scale;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("m: row 5, group 1: the zero point 7 is lost"));
    }
  }
}

// Scales of every F16 exponent keep their zero points.
TEST(ScaledZeros, TellTheirZeroPointForEveryFiniteScale) {
  std::vector<uint16_t> bits;
  std::vector<uint8_t> points;
  for (int scale = 1; scale < 0x6C00; scale += 7) {  // up to 4096: 15 times it is finite
    bits.push_back(static_cast<uint16_t>(scale));
    points.push_back(static_cast<uint8_t>(scale % 16));
  }
  const Shape shape = {std::ssize(bits)};
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
    const Tensor scales = Tensor::copy_of(dtype, shape, std::span<const uint16_t>(bits));
    const Tensor zeros = Tensor::copy_of(Dtype::kU8, shape, std::span<const uint8_t>(points));
    const UnscaledZeros back = unscaled_zeros(scales, scaled_zeros(scales, zeros));
    EXPECT_EQ(back.first_unfit, -1);
    EXPECT_TRUE(std::ranges::equal(back.zeros.values<uint8_t>(), points));
  }
}

TEST(AwqVersions, RefuseShapesAndGroupsThatTheirKernelsLack) {
  const auto refusal = [](const char* name, int64_t group, int64_t N, int64_t K) {
    const QuantizedLinear q = random_layer(integer_scheme(4, group, true, Dtype::kF16), N, K, 1);
    return format(name).refusal(module_of("m", q));
  };
  for (const char* name : {"awq-gemv", "awq-gemv-fast", "tinychat"}) {
    EXPECT_EQ(refusal(name, 128, 16, 256), "") << name;
    EXPECT_EQ(refusal(name, kAll, 16, 128), "") << name;
    EXPECT_THAT(refusal(name, 16, 16, 128), HasSubstr("groups have 32, 64, 128 or more")) << name;
    EXPECT_THAT(refusal(name, kAll, 12, 128), HasSubstr("not a multiple of 8")) << name;
  }
  EXPECT_THAT(refusal("tinychat", 32, 16, 96), HasSubstr("not a multiple of 64"));
}

}  // namespace
}  // namespace nibble
