// ModelOpt's checkpoints: its own bytes (tools/golden/modelopt_reference.py), the page's worked
// example, both places of the configuration, broken files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
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
#include "tests/golden/golden.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

const Format& modelopt() { return format("modelopt"); }

Scheme nvfp4_with_inputs() {
  Scheme scheme = nvfp4_scheme(false);
  scheme.activations = {.bits = 4, .dynamic = false, .is_float = true, .columns = kNvfp4Group};
  return scheme;
}

Scheme fp8_with_inputs() {
  Scheme scheme = fp8_scheme({.rows = kAll, .columns = kAll}, Dtype::kF32);
  scheme.activations = {.dynamic = false, .per_token = false, .is_float = true};
  return scheme;
}

QuantizedLinear with_input_scale(QuantizedLinear q) {
  const float scale = 0.25F;
  q.scheme = nvfp4_with_inputs();
  q.input_scale = Tensor::copy_of(Dtype::kF32, {1}, std::span(&scale, 1));
  return q;
}

std::string checksum(std::span<const std::byte> bytes) {
  std::array<char, 9> text{};
  const auto value = crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
  std::snprintf(text.data(), text.size(), "%08x", static_cast<uint32_t>(value));
  return text.data();
}

TEST(Modelopt, BytesAreTheirs) {
  const Json rows = golden_results("modelopt");
  ASSERT_EQ(rows.size(), 2U);
  const Checkpoint checkpoint = Checkpoint::open(own_test_data() / "bookworm-5m");
  for (const Json& row : rows) {
    const Tensor tensor = checkpoint.tensor(row.at("source"));
    Matrix W(tensor.shape()[0], tensor.shape()[1]);
    to_float(tensor.view(), {W.data(), static_cast<size_t>(W.size())});
    const QuantizedLinear q =
        with_input_scale(quantize_to_floats(W, nvfp4_scheme(false), 0.F, "m").q);
    for (const auto& [name, part] : modelopt().encode(module_of("m", q), q)) {
      if (name == "m.input_scale") continue;
      EXPECT_EQ(checksum(part.bytes()), row.at(name.substr(2)).get<std::string>())
          << row.at("source") << name;
    }
    Matrix back = dequantize(q);
    back.array() += 0.F;  // theirs has one zero
    EXPECT_EQ(checksum(std::as_bytes(std::span(back.data(), static_cast<size_t>(back.size())))),
              row.at("weights").get<std::string>())
        << row.at("source");
  }
}

// The page's.
TEST(Modelopt, WorkedExample) {
  Matrix W = Matrix::Zero(1, 32);
  W.row(0).head(4) << 6.F, -3.F, 0.3F, -0.1F;
  W(0, 16) = 12.F;
  Stored s =
      stored(modelopt(), with_input_scale(quantize_to_floats(W, nvfp4_scheme(false), 0.F, "m").q));
  EXPECT_EQ(s.at("m.weight_scale_2").values<float>()[0], 12.F / 2688.F);
  EXPECT_EQ(s.at("m.weight_scale").values<uint8_t>()[0], 0x76);
  EXPECT_EQ(s.at("m.weight").values<uint8_t>()[0], 0xD7);
  EXPECT_EQ(s.at("m.weight").values<uint8_t>()[1], 0x81);
}

TEST(Modelopt, BothKindsComeBack) {
  for (const Scheme& scheme : {nvfp4_with_inputs(), fp8_with_inputs()}) {
    const QuantizedLinear q = random_layer(scheme, 24, 96, 3);
    EXPECT_EQ(modelopt().refusal(module_of("m", q)), "");
    EXPECT_EQ(fingerprint(round_trip(modelopt(), q)), fingerprint(q)) << describe(scheme);
  }
}

// Older files have no quantization_config.
TEST(Modelopt, TheFileBesideTheConfigIsEnough) {
  const QuantizedLinear q = random_layer(nvfp4_with_inputs(), 24, 96, 3);
  const Stored s = stored(modelopt(), q);
  const TemporaryFolder folder;
  written(folder.path() / "model", nullptr, s.tensors);
  write_file(folder.path() / "model" / "hf_quant_config.json",
             R"({"producer": {"name": "modelopt", "version": "0.29.0"}, "quantization": )"
             R"({"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16, )"
             R"("exclude_modules": ["lm_head"]}})");
  const Checkpoint checkpoint = Checkpoint::open(folder.path() / "model");
  ASSERT_EQ(format_of(checkpoint), &modelopt());
  EXPECT_EQ(fingerprint(modelopt().decode(checkpoint, "m", 24, 96)), fingerprint(q));
  EXPECT_TRUE(checkpoint.side_files().empty());
}

TEST(Modelopt, WhatIsBesideTheWeightsIsOfTheModule) {
  const QuantizedLinear q = random_layer(fp8_with_inputs(), 24, 96, 3);
  Stored s = stored(modelopt(), q);
  s.tensors.push_back({"m.k_scale", Tensor::allocate(Dtype::kF32, {})});
  {
    const TemporaryFolder folder;
    const Checkpoint checkpoint = written(folder.path() / "model", s.config, s.tensors);
    EXPECT_EQ(modelopt().tensors_of(checkpoint, "m").size(), 4U);
  }
  s.remove("m.input_scale");  // weights alone
  const TemporaryFolder folder;
  const Checkpoint checkpoint = written(folder.path() / "model", s.config, s.tensors);
  EXPECT_FALSE(modelopt().decode(checkpoint, "m", 24, 96).scheme.activations.has_value());
}

TEST(Modelopt, RefusalsSayWhy) {
  const auto refusal = [](const Scheme& scheme, int64_t K = 64) {
    FormatModule module = dense_module("m", 32, K);
    module.scheme = scheme;
    return modelopt().refusal(module);
  };
  EXPECT_EQ(refusal(nvfp4_with_inputs()), "");
  EXPECT_THAT(refusal(nvfp4_with_inputs(), 72), HasSubstr("K = 72"));
  Scheme divides = nvfp4_with_inputs();
  divides.scale->second->divides = true;
  EXPECT_THAT(refusal(divides), HasSubstr("multiplies, this one divides"));
  EXPECT_THAT(refusal(nvfp4_scheme(true)), HasSubstr("choose the scheme nvfp4, or the format"));
  EXPECT_THAT(refusal(mxfp4_scheme()), HasSubstr("it holds NVFP4 and FP8, not e2m1 g32"));
  Scheme by_row = fp8_with_inputs();
  by_row.blocking = {};
  EXPECT_THAT(refusal(by_row), HasSubstr("it holds e4m3 per tensor"));
  EXPECT_THAT(refusal(fp8_scheme({}, Dtype::kF32)), HasSubstr("choose the scheme fp8, or"));
  std::vector<FormatModule> modules = {dense_module("a", 32, 64), dense_module("b", 32, 64)};
  modules[0].scheme = nvfp4_with_inputs();
  modules[1].scheme = fp8_with_inputs();
  EXPECT_THROW(modelopt().config(modules), Error);
}

TEST(Modelopt, BrokenFilesAreErrors) {
  for (const Scheme& scheme : {nvfp4_with_inputs(), fp8_with_inputs()}) {
    const Stored whole = stored(modelopt(), random_layer(scheme, 32, 64, 2));
    EXPECT_NE(decode_error(modelopt(), whole.config, whole.tensors, 32, 96), "");
    EXPECT_NE(decode_error(modelopt(), whole.config, whole.tensors, 32, 40), "");
    for (const NamedTensor& part : whole.tensors) {
      Stored broken = whole;
      broken.remove(part.name);
      const std::string error = decode_error(modelopt(), broken.config, broken.tensors, 32, 64);
      EXPECT_EQ(error.empty(), part.name == "m.input_scale") << part.name << error;
      broken = whole;
      broken.at(part.name) = Tensor::allocate(part.tensor.dtype(), {3, 5});
      EXPECT_THAT(decode_error(modelopt(), broken.config, broken.tensors, 32, 64),
                  HasSubstr("'" + part.name + "': shape [3, 5]"));
    }
  }
}

}  // namespace
}  // namespace nibble
