#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"
#include "tests/formats/layers.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

const Format& awq() { return format("awq"); }

// ---- a decoder from formats/awq.md alone --------------------------------------------------------

// Output 8c + j is in nibble [0, 4, 1, 5, 2, 6, 3, 7][j] of word c.
int read_code(const Tensor& words, int64_t row, int64_t n) {
  constexpr int kNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  const int64_t index = row * words.shape()[1] + n / 8;
  const uint32_t word = words.values<uint32_t>()[static_cast<size_t>(index)];
  return static_cast<int>(word >> 4 * kNibble[n % 8] & 15u);
}

TEST(Awq, AgreesWithADecoderFromThePage) {
  for (const bool symmetric : {true, false}) {
    for (const int64_t group : {int64_t{16}, int64_t{32}, kAll}) {
      const QuantizedLinear q =
          random_layer(integer_scheme(4, group, symmetric, Dtype::kF16), 40, 96, 12);
      Stored s = stored(awq(), q);
      const Matrix W = dequantize(q);
      for (int64_t n = 0; n < q.N; ++n) {
        for (int64_t k = 0; k < q.K; ++k) {
          const int64_t g = group == kAll ? 0 : k / group;
          const int code = read_code(s.at("m.qweight"), k, n);
          const int zero = read_code(s.at("m.qzeros"), g, n);
          const uint16_t scale =
              s.at("m.scales").values<uint16_t>()[static_cast<size_t>(g * q.N + n)];
          ASSERT_EQ(static_cast<float>(code - zero) * f16_to_float(scale), W(n, k))
              << n << ", " << k;
        }
      }
    }
  }
}

// The page's worked example: outputs 0 to 7 have the codes 0 to 7.
TEST(Awq, WorkedExample) {
  QuantizedLinear q = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 8, 32, 1);
  for (size_t n = 0; n < 8; ++n) {
    q.codes.mutable_values<uint8_t>()[n * 32] = static_cast<uint8_t>(n);
  }
  Stored s = stored(awq(), q);
  EXPECT_EQ(s.at("m.qweight").values<uint32_t>()[0], 0x75316420u);
  EXPECT_EQ(s.at("m.qzeros").values<uint32_t>()[0], 0x88888888u);
}

// ---- configuration ------------------------------------------------------------------------------

TEST(Awq, ConfigLeavesTheListOfExceptionsNullWhenItCan) {
  std::vector<FormatModule> modules = {dense_module("model.layers.0.q", 64, 64),
                                       dense_module("lm_head", 64, 64)};
  modules[0].scheme = integer_scheme(4, 32, true, Dtype::kF16);
  Json config = awq().config(modules);
  EXPECT_EQ(config.dump(), R"({"quant_method":"awq","zero_point":true,"group_size":32,"bits":4,)"
                           R"("version":"gemm","modules_to_not_convert":null})");
  modules.push_back(dense_module("model.layers.0.k", 64, 64));
  EXPECT_EQ(awq().config(modules).at("modules_to_not_convert").dump(), R"(["model.layers.0.k"])");
  modules.back().scheme = integer_scheme(4, 64, true, Dtype::kF16);
  EXPECT_THROW(awq().config(modules), Error);
  modules[1].scheme = modules[0].scheme;
  EXPECT_THAT(awq().refusal(modules[1]), HasSubstr("output head"));
}

TEST(Awq, ConfigsOfOthers) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 32, false, Dtype::kF16), 32, 64, 1);
  const auto error_of = [&](const char* config) {
    const Stored s = stored(awq(), q);
    EXPECT_TRUE(awq().recognizes(Json::parse(config))) << config;
    return decode_error(awq(), Json::parse(config), s.tensors, 32, 64);
  };
  EXPECT_EQ(error_of(R"({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "GEMM"})"),
            "");
  EXPECT_EQ(error_of(R"({"quant_method": "awq", "bits": 4, "group_size": 32, "format": "gemm",
                         "checkpoint_format": "gemm", "sym": false})"),
            "");
  EXPECT_EQ(error_of(R"({"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM"})"),
            "");
  EXPECT_THAT(error_of(R"({"quant_method": "awq", "bits": 8, "group_size": 32})"),
              HasSubstr("bits 8"));
  EXPECT_THAT(error_of(R"({"quant_method": "awq", "bits": 4})"), HasSubstr("no group_size"));
  EXPECT_THAT(error_of(R"({"quant_method": "awq", "bits": 4, "group_size": 48})"),
              HasSubstr("group_size 48 does not fit 'm' of shape [32, 64]"));
  EXPECT_THAT(error_of(R"({"quant_method": "awq", "bits": 4, "group_size": -5})"),
              HasSubstr("group_size -5"));
  EXPECT_THAT(error_of(R"({"quant_method": "awq", "bits": 4, "group_size": "32"})"),
              HasSubstr("expected an integer"));
  EXPECT_FALSE(
      awq().recognizes(Json::parse(R"({"quant_method": "awq", "bits": 4, "backend": "llm-awq"})")));
}

// ---- files of others ----------------------------------------------------------------------------

TEST(Awq, GoldenSliceDecodesBitForBit) {
  NIBBLE_NEEDS_TEST_DATA();
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(test_data() / "golden" / "awq")) {
    const std::string bytes = read_file(entry.path());
    uint32_t header[9];
    std::memcpy(header, bytes.data(), sizeof header);
    const int64_t bits = header[0], group_size = header[1], K = header[2], N = header[3];
    const Dtype scale_dtypes[] = {Dtype::kF32, Dtype::kBF16, Dtype::kF16};
    size_t at = sizeof header;
    const auto next = [&](Dtype dtype, Shape shape, uint32_t size) {
      const std::span<const char> part(bytes.data() + at, size);
      at += size;
      return Tensor::copy_of(dtype, std::move(shape), part);
    };
    std::vector<NamedTensor> tensors;
    tensors.push_back({"m.qweight", next(Dtype::kI32, {K, N / 8}, header[5])});
    tensors.push_back({"m.scales", next(scale_dtypes[header[4]], {K / group_size, N}, header[6])});
    tensors.push_back({"m.qzeros", next(Dtype::kI32, {K / group_size, N / 8}, header[7])});
    const Tensor expected = next(Dtype::kBF16, {K, N}, header[8]);
    EXPECT_EQ(at, bytes.size());

    const Json config = {{"quant_method", "awq"}, {"bits", bits}, {"group_size", group_size}};
    const TemporaryFolder folder;
    const Checkpoint checkpoint = written(folder.path() / "model", config, tensors);
    const QuantizedLinear q = awq().decode(checkpoint, "m", N, K);
    FormatModule module = module_of("m", q, Dtype::kBF16);
    module.transposed = true;
    const Tensor weights = format("dense").encode(module, q)[0].tensor;
    EXPECT_TRUE(std::ranges::equal(weights.bytes(), expected.bytes())) << entry.path();
    ++files;
  }
  EXPECT_EQ(files, 1);
}

}  // namespace
}  // namespace nibble
