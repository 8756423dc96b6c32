// FP8 checkpoints: real ones of others with their dequantized weights (NIBBLE_TEST_DATA/golden/fp8,
// layout in its README.md), the page's worked example, configurations and broken files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/float_schemes.h"
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

const Format& fp8_format() { return format("fp8"); }

// A slice of a published checkpoint and what its reference library makes of it.
struct Golden {
  uint32_t scheme = 0;  // 0 fine-grained 128 x 128, 1 per tensor, 2 per channel
  int64_t rows = 0;
  int64_t columns = 0;
  Tensor weight;
  Tensor scale;                    // BF16
  std::vector<uint16_t> expected;  // BF16
};

Golden read_golden(const std::string& name) {
  const std::string bytes = read_file(test_data() / "golden" / "fp8" / name);
  uint32_t header[7];
  std::memcpy(header, bytes.data(), sizeof header);
  EXPECT_EQ(header[1], 1U) << "BF16 scales";
  const auto part = [&](size_t offset, size_t length) {
    return std::span(reinterpret_cast<const uint8_t*>(bytes.data()) + offset, length);
  };
  Golden golden;
  golden.scheme = header[0];
  golden.rows = header[2];
  golden.columns = header[3];
  const size_t scales = sizeof header + header[4];
  golden.weight = Tensor::copy_of(Dtype::kF8E4M3, {golden.rows, golden.columns},
                                  part(sizeof header, header[4]));
  golden.scale = Tensor::allocate(Dtype::kBF16, {static_cast<int64_t>(header[5] / 2)});
  std::memcpy(golden.scale.mutable_bytes().data(), bytes.data() + scales, header[5]);
  golden.expected.resize(header[6] / 2);
  std::memcpy(golden.expected.data(), bytes.data() + scales + header[5], header[6]);
  return golden;
}

Tensor shaped(const Tensor& tensor, const Shape& shape) {
  return Tensor::copy_of(tensor.dtype(), shape, tensor.values<uint16_t>());
}

void expect_weights(const Golden& golden, const Format& row, const Json& config,
                    const std::vector<NamedTensor>& tensors) {
  const TemporaryFolder folder;
  const Checkpoint checkpoint = written(folder.path() / "model", config, tensors);
  ASSERT_EQ(format_of(checkpoint), &row);
  const Matrix W = dequantize(row.decode(checkpoint, "m", golden.rows, golden.columns));
  for (int64_t i = 0; i < W.size(); ++i) {
    ASSERT_EQ(float_to_bf16(W.data()[i]), golden.expected[static_cast<size_t>(i)]) << i;
  }
}

TEST(Fp8, FineGrainedCheckpointOfOthers) {
  NIBBLE_NEEDS_TEST_DATA();
  const Golden golden = read_golden("exaone_fine_grained.bin");
  ASSERT_EQ(golden.scheme, 0U);
  expect_weights(
      golden, fp8_format(),
      {{"quant_method", "fp8"},
       {"activation_scheme", "dynamic"},
       {"weight_block_size", {128, 128}}},
      {{"m.weight", golden.weight}, {"m.weight_scale_inv", shaped(golden.scale, {2, 2})}});
}

TEST(Fp8, PerTensorCheckpointOfOthers) {
  NIBBLE_NEEDS_TEST_DATA();
  const Golden golden = read_golden("llama_static_per_tensor.bin");
  ASSERT_EQ(golden.scheme, 1U);
  const float input = 0.5F;
  for (const Shape& shape : {Shape{}, Shape{1}}) {
    expect_weights(golden, fp8_format(), {{"quant_method", "fp8"}, {"activation_scheme", "static"}},
                   {{"m.weight", golden.weight},
                    {"m.weight_scale", shaped(golden.scale, shape)},
                    {"m.input_scale", Tensor::copy_of(Dtype::kF32, shape, std::span(&input, 1))}});
  }
}

TEST(Fp8, PerChannelCheckpointOfOthers) {
  NIBBLE_NEEDS_TEST_DATA();
  const Golden golden = read_golden("llama_dynamic_per_channel.bin");
  ASSERT_EQ(golden.scheme, 2U);
  expect_weights(golden, fp8_format(), {{"quant_method", "fbgemm_fp8"}},
                 {{"m.weight", golden.weight}, {"m.weight_scale", shaped(golden.scale, {256, 1})}});
  const std::string group = R"({"quant_method": "compressed-tensors", "format": "float-quantized",
      "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8,
      "type": "float", "strategy": "channel", "symmetric": true, "dynamic": false},
      "input_activations": {"num_bits": 8, "type": "float", "strategy": "token",
      "symmetric": true, "dynamic": true}}}})";
  expect_weights(golden, format("compressed-tensors"), Json::parse(group),
                 {{"m.weight", golden.weight}, {"m.weight_scale", shaped(golden.scale, {256, 1})}});
}

Scheme block_scheme() {
  Scheme scheme = fp8_scheme({.rows = 128, .columns = 128}, Dtype::kF32);
  scheme.activations = {.is_float = true, .columns = 128};
  return scheme;
}

// The page's worked example.
TEST(Fp8, WorkedExample) {
  Matrix W = Matrix::Zero(130, 256);
  W(0, 0) = 7.F;
  W(0, 1) = -0.1F;
  W(129, 255) = 0.875F;
  const QuantizedLinear q = quantize_to_floats(W, block_scheme(), 0.F, "m").q;
  Stored s = stored(fp8_format(), q);
  const auto scales = s.at("m.weight_scale_inv").values<float>();
  EXPECT_EQ(s.at("m.weight_scale_inv").shape(), (Shape{2, 2}));
  EXPECT_EQ(scales[0], 0x1p-6F);
  EXPECT_EQ(scales[3], 0x1p-9F);
  const auto bytes = s.at("m.weight").values<uint8_t>();
  EXPECT_EQ(bytes[0], 0x7E);
  EXPECT_EQ(bytes[1], 0xCD);
  EXPECT_EQ(dequantize(q)(0, 1), -0.1015625F);
}

TEST(Fp8, BlocksAndTensorsComeBack) {
  Scheme tensor = fp8_scheme({.rows = kAll, .columns = kAll}, Dtype::kF32);
  tensor.activations = {.is_float = true};
  Scheme fixed = tensor;
  fixed.activations = {.dynamic = false, .per_token = false, .is_float = true};
  for (const Scheme& scheme : {block_scheme(), tensor, fixed}) {
    const QuantizedLinear q = random_layer(scheme, 200, 300, 3);
    EXPECT_EQ(fp8_format().refusal(module_of("m", q)), "");
    EXPECT_EQ(fingerprint(round_trip(fp8_format(), q)), fingerprint(q)) << describe(scheme);
  }
}

// Scales as powers of two, in the type for them.
TEST(Fp8, E8m0ScalesAreRead) {
  const QuantizedLinear q = random_layer(block_scheme(), 128, 256, 4);
  Stored s = stored(fp8_format(), q);
  const std::vector<uint8_t> exponents = {120, 124};
  s.at("m.weight_scale_inv") =
      Tensor::copy_of(Dtype::kF8E8M0, {1, 2}, std::span<const uint8_t>(exponents));
  const TemporaryFolder folder;
  const Checkpoint checkpoint = written(folder.path() / "model", s.config, s.tensors);
  const QuantizedLinear back = fp8_format().decode(checkpoint, "m", 128, 256);
  EXPECT_EQ(block_parameters(back, 5, 5).scale, 0x1p-7F);
  EXPECT_EQ(block_parameters(back, 5, 200).scale, 0x1p-3F);
}

TEST(Fp8, TheConfigIsThatOfItsLoaders) {
  std::vector<FormatModule> modules = {dense_module("a", 128, 128), dense_module("b", 128, 128)};
  modules[0].scheme = block_scheme();
  EXPECT_EQ(fp8_format().config(modules).dump(),
            R"({"quant_method":"fp8","fmt":"e4m3","activation_scheme":"dynamic",)"
            R"("weight_block_size":[128,128],"modules_to_not_convert":["b","lm_head"]})");
  modules[1].scheme = fp8_scheme({.rows = 64, .columns = 64}, Dtype::kF32);
  EXPECT_THROW(fp8_format().config(modules), Error);
}

TEST(Fp8, RefusalsSayWhy) {
  const auto refusal = [](const Scheme& scheme) {
    FormatModule module = dense_module("m", 128, 128);
    module.scheme = scheme;
    return fp8_format().refusal(module);
  };
  EXPECT_THAT(refusal(nvfp4_scheme(true)), HasSubstr("it holds FP8, not e2m1"));
  EXPECT_THAT(refusal(fp8_scheme({}, Dtype::kF32)), HasSubstr("blocks of rows and columns"));
  Scheme scheme = block_scheme();
  scheme.scale->type = Dtype::kBF16;
  scheme.scale->bits = 16;
  EXPECT_THAT(refusal(scheme), HasSubstr("scales as F32, not BF16"));
  scheme = block_scheme();
  scheme.activations.reset();
  EXPECT_THAT(refusal(scheme), HasSubstr("quantize activations"));
  scheme.activations = {.is_float = true};
  EXPECT_THAT(refusal(scheme), HasSubstr("its loaders have no fp8 dynamic per token activations"));
  FormatModule module = dense_module("m", 128, 192);
  module.scheme = block_scheme();
  EXPECT_THAT(fp8_format().caution(module), HasSubstr("multiples of a block"));
}

TEST(Fp8, BrokenFilesAreErrors) {
  const QuantizedLinear q = random_layer(block_scheme(), 130, 256, 5);
  const Stored whole = stored(fp8_format(), q);
  struct Edit {
    const char* key;
    const char* value;
    const char* message;
  };
  for (const Edit& edit :
       std::vector<Edit>{{"weight_block_size", "[128]", "'weight_block_size'"},
                         {"weight_block_size", "[128, 0]", "'weight_block_size'"},
                         {"weight_block_size", R"("128")", "'weight_block_size'"},
                         {"weight_block_size", "[64, 64]", "shape [2, 2], expected [3, 4]"},
                         {"weight_block_size", "null", "shape [2, 2], expected [1]"},
                         {"activation_scheme", R"("often")", "'activation_scheme' is 'often'"},
                         {"activation_scheme", R"("static")", "m.input_scale"},
                         {"activation_scheme", "3", "activation_scheme"}}) {
    Stored s = whole;
    s.config[edit.key] = Json::parse(edit.value);
    EXPECT_THAT(decode_error(fp8_format(), s.config, s.tensors, 130, 256), HasSubstr(edit.message))
        << edit.key << " " << edit.value;
  }
  Stored s = whole;
  Tensor scales = Tensor::copy_of(Dtype::kF32, {2, 2}, whole.tensors[1].tensor.values<float>());
  scales.mutable_values<uint32_t>()[2] = 0x7FC00000;
  s.at("m.weight_scale_inv") = scales;
  EXPECT_THAT(decode_error(fp8_format(), s.config, s.tensors, 130, 256), HasSubstr("NaN"));
  s = whole;
  s.remove("m.weight_scale_inv");
  EXPECT_THAT(decode_error(fp8_format(), s.config, s.tensors, 130, 256),
              HasSubstr("m.weight_scale"));
  EXPECT_THAT(decode_error(fp8_format(), whole.config, whole.tensors, 130, 255),
              HasSubstr("'m.weight': shape [130, 256], expected [130, 255]"));
}

}  // namespace
}  // namespace nibble
