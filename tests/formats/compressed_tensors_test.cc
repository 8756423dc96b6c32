#include "formats/packing/compressed_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "formats/packing/matrix.h"
#include "formats/packing/packing.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"
#include "tests/formats/layers.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

const Format& compressed_tensors() { return format("compressed-tensors"); }

// ---- a decoder from formats/compressed_tensors.md alone -----------------------------------------

float stored_scale(const Tensor& scales, int64_t index) {
  const auto at = static_cast<size_t>(index);
  if (scales.dtype() == Dtype::kF32) return scales.values<float>()[at];
  const uint16_t bits = scales.values<uint16_t>()[at];
  return scales.dtype() == Dtype::kF16 ? f16_to_float(bits) : bf16_to_float(bits);
}

// (q - zp) * scale, both signed.
float page_weight(Stored& s, const Shape& shape, int64_t n, int64_t k, int bits, int64_t group,
                  bool symmetric) {
  const int half = 1 << (bits - 1);
  const Tensor& words = s.at("m.weight_packed");
  const int q = read_streamed_code(words, n * words.shape()[1], 1, k, bits) - half;
  const int64_t groups = shape[1] / group;
  int zp = 0;
  if (!symmetric) {
    zp = read_streamed_code(s.at("m.weight_zero_point"), k / group, groups, n, bits) - half;
  }
  return static_cast<float>(q - zp) * stored_scale(s.at("m.weight_scale"), n * groups + k / group);
}

TEST(CompressedTensors, AgreesWithADecoderFromThePage) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t group : {int64_t{24}, int64_t{72}}) {
        for (const Dtype scale : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
          const QuantizedLinear q =
              random_layer(integer_scheme(bits, group, symmetric, scale), 21, 72, 13);
          Stored s = stored(compressed_tensors(), q);
          const Matrix W = dequantize(q);
          for (int64_t n = 0; n < q.N; ++n) {
            for (int64_t k = 0; k < q.K; ++k) {
              ASSERT_EQ(page_weight(s, {q.N, q.K}, n, k, bits, group, symmetric), W(n, k))
                  << bits << " bits at " << n << ", " << k;
            }
          }
        }
      }
    }
  }
}

// The page's worked example.
TEST(CompressedTensors, WorkedExample) {
  QuantizedLinear q = random_layer(integer_scheme(4, 8, false, Dtype::kF16), 8, 8, 1);
  for (size_t i = 0; i < 8; ++i) {
    q.codes.mutable_values<uint8_t>()[i] = static_cast<uint8_t>(i);
    q.zero.values.mutable_values<uint8_t>()[i] = static_cast<uint8_t>(15 - i);
  }
  q.scale.values.mutable_values<uint16_t>()[0] = 0x3400;  // 0.25
  Stored s = stored(compressed_tensors(), q);
  EXPECT_EQ(s.at("m.weight_packed").values<uint32_t>()[0], 0x76543210u);
  EXPECT_EQ(s.at("m.weight_zero_point").values<uint32_t>()[0], 0x89ABCDEFu);
  EXPECT_EQ(s.at("m.weight_shape").values<int64_t>()[1], 8);
  EXPECT_EQ(dequantize(q)(0, 3), -3.f);  // (3 - 15) * 0.25
}

// ---- the two layouts of 3 bits ------------------------------------------------------------------

template <int kBits>
void expect_padded_is_read(bool symmetric) {
  const QuantizedLinear q =
      random_layer(integer_scheme(kBits, 32, symmetric, Dtype::kF16), 33, 64, 14);
  Stored s = stored(compressed_tensors(), q);
  using Weights = CompressedTensorsPaddedWeights<kBits>;
  using Zeros = CompressedTensorsPaddedZeros<kBits>;
  Tensor words = Tensor::allocate(Dtype::kI32, {33, divide_up(64, Weights::kPerWord)});
  pack_rows<Weights>(q.codes.values<uint8_t>().data(), 33, 64, 0, 33,
                     words.mutable_values<uint32_t>().data());
  s.at("m.weight_packed") = words;
  if (!symmetric) {
    Tensor zeros = Tensor::allocate(Dtype::kI32, {divide_up(33, Zeros::kPerWord), 2});
    pack_rows<Zeros>(q.zero.values.values<uint8_t>().data(), 33, 2, 0, 33,
                     zeros.mutable_values<uint32_t>().data());
    s.at("m.weight_zero_point") = zeros;
  }
  const TemporaryFolder folder;
  const Checkpoint checkpoint = written(folder.path() / "model", s.config, s.tensors);
  EXPECT_EQ(fingerprint(compressed_tensors().decode(checkpoint, "m", 33, 64)), fingerprint(q))
      << kBits;
}

TEST(CompressedTensors, OldThreeBitLayoutIsToldByItsWidth) {
  expect_padded_is_read<3>(true);
  expect_padded_is_read<3>(false);
  expect_padded_is_read<2>(false);  // both layouts are the same
  expect_padded_is_read<4>(false);
}

TEST(CompressedTensors, CautionNamesReadersThatCannot) {
  FormatModule module = dense_module("m", 64, 64);
  module.scheme = integer_scheme(3, 32, true, Dtype::kF16);
  EXPECT_EQ(compressed_tensors().refusal(module), "");
  EXPECT_THAT(compressed_tensors().caution(module), HasSubstr("vLLM reads 4 and 8 bits"));
  module.scheme = integer_scheme(4, 32, true, Dtype::kF16);
  EXPECT_EQ(compressed_tensors().caution(module), "");
  module.has_column_groups = true;
  EXPECT_THAT(compressed_tensors().caution(module), HasSubstr("0.20"));
}

// ---- configuration ------------------------------------------------------------------------------

TEST(CompressedTensors, ConfigOfOneSchemeTargetsLinear) {
  std::vector<FormatModule> modules = {dense_module("model.layers.0.q", 64, 64),
                                       dense_module("model.layers.0.k", 64, 64)};
  modules[0].scheme = integer_scheme(4, 32, false, Dtype::kF16);
  const Json config = compressed_tensors().config(modules);
  EXPECT_EQ(config.at("quantization_status"), "compressed");
  EXPECT_EQ(config.at("ignore").dump(), R"(["model.layers.0.k","lm_head"])");
  EXPECT_EQ(config.at("config_groups").dump(),
            R"({"group_0":{"targets":["Linear"],"weights":{"num_bits":4,"type":"int",)"
            R"("symmetric":false,"strategy":"group","group_size":32,"dynamic":false},)"
            R"("input_activations":null,"output_activations":null,"format":"pack-quantized"}})");
}

TEST(CompressedTensors, SchemesThatDifferAreGroupsOfModules) {
  std::vector<FormatModule> modules = {dense_module("a", 64, 64), dense_module("b", 64, 64),
                                       dense_module("lm_head", 64, 64)};
  modules[0].scheme = integer_scheme(4, 32, true, Dtype::kF16);
  modules[1].scheme = integer_scheme(8, kAll, true, Dtype::kF16);
  modules[2].scheme = modules[1].scheme;
  const Json config = compressed_tensors().config(modules);
  EXPECT_EQ(config.at("ignore").dump(), "[]");
  const Json& groups = config.at("config_groups");
  EXPECT_EQ(groups.at("group_0").at("targets").dump(), R"(["a"])");
  EXPECT_EQ(groups.at("group_1").at("targets").dump(), R"(["b","lm_head"])");
  EXPECT_EQ(groups.at("group_1").at("weights").at("strategy"), "channel");
  EXPECT_FALSE(groups.at("group_1").at("weights").contains("group_size"));
}

TEST(CompressedTensors, MixedSchemesComeBack) {
  const QuantizedLinear q4 = random_layer(integer_scheme(4, 32, false, Dtype::kF16), 32, 64, 1);
  const QuantizedLinear q8 = random_layer(integer_scheme(8, kAll, true, Dtype::kBF16), 32, 64, 2);
  const QuantizedLinear q1 =
      random_layer(integer_scheme(8, kAll, true, Dtype::kF32, true), 32, 64, 3);
  const TemporaryFolder folder;
  const Checkpoint checkpoint = written(folder.path() / "model", compressed_tensors(),
                                        {{"a", q4}, {"b", q8}, {"c", q1}, {"d", q4}});
  EXPECT_EQ(fingerprint(compressed_tensors().decode(checkpoint, "a", 32, 64)), fingerprint(q4));
  EXPECT_EQ(fingerprint(compressed_tensors().decode(checkpoint, "b", 32, 64)), fingerprint(q8));
  EXPECT_EQ(fingerprint(compressed_tensors().decode(checkpoint, "c", 32, 64)), fingerprint(q1));
  EXPECT_EQ(fingerprint(compressed_tensors().decode(checkpoint, "d", 32, 64)), fingerprint(q4));
}

TEST(CompressedTensors, ConfigsOfOthers) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 32, 64, 1);
  const std::string weights = "/config_groups/group_0/weights";
  const std::string group = "/config_groups/group_0";
  const std::vector<std::tuple<std::string, const char*, const char*>> edits = {
      {group + "/targets", R"(["re:.*m$"])", ""},
      {group + "/targets", R"(["m"])", ""},
      {group + "/targets", R"(["re:x"])", "no config group has 'm'"},
      {group + "/targets", R"("Linear")", "no list of targets"},
      {group + "/targets", R"([3])", "a target is no string"},
      {group + "/targets", R"(["re:(?<x"])", "regular expression"},
      {group + "/format", R"("float-quantized")", "type 'int' in float-quantized is not read yet"},
      {group + "/format", R"("marlin-24")", "format 'marlin-24' is not read yet"},
      {group + "/format", R"("int-quantized")", "num_bits 4 is not read yet"},
      {group + "/format", "null", ""},
      {group + "/weights", "null", "no 'weights'"},
      {group + "/input_activations", R"({"num_bits": 8})", "input_activations of pack-quantized"},
      {weights + "/num_bits", "6", "num_bits 6 is not read yet"},
      {weights + "/num_bits", "4294967300", "num_bits 4294967300"},
      {weights + "/num_bits", R"("4")", "expected an integer"},
      {weights + "/type", R"("float")", "type 'float' in pack-quantized is not read yet"},
      {weights + "/strategy", "null", ""},
      {weights + "/strategy", R"("block")", "strategy 'block' is not read yet"},
      {weights + "/strategy", R"("channel")", "'m.weight_scale': shape [32, 2], expected [32, 1]"},
      {weights + "/group_size", "0", "group_size 0"},
      {weights + "/group_size", "48", "group_size 48 does not divide K = 64 of 'm'"},
      {weights + "/group_size", "16", "'m.weight_scale': shape [32, 2], expected [32, 4]"},
      {weights + "/symmetric", "false", "m.weight_zero_point"},
      {weights + "/symmetric", "0", "'symmetric' is 0, expected true or false"},
      {"/config_groups", "{}", "no config group has 'm'"},
      {"/config_groups", "[]", "no config_groups"}};
  for (const auto& [pointer, value, message] : edits) {
    Stored s = stored(compressed_tensors(), q);
    s.config[Json::json_pointer(pointer)] = Json::parse(value);
    const std::string error = decode_error(compressed_tensors(), s.config, s.tensors, 32, 64);
    if (*message == '\0') {
      EXPECT_EQ(error, "") << pointer << " " << value;
    } else {
      EXPECT_THAT(error, HasSubstr(message)) << pointer << " " << value;
    }
  }
}

TEST(CompressedTensors, ZeroPointOfASymmetricSchemeIsAnError) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 32, false, Dtype::kF16), 32, 64, 1);
  Stored s = stored(compressed_tensors(), q);
  s.config[Json::json_pointer("/config_groups/group_0/weights/symmetric")] = true;
  EXPECT_THAT(decode_error(compressed_tensors(), s.config, s.tensors, 32, 64),
              HasSubstr("a zero point, but the config says symmetric"));
}

TEST(CompressedTensors, WeightShapeIsChecked) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 32, 64, 1);
  Stored s = stored(compressed_tensors(), q);
  s.at("m.weight_shape").mutable_values<int64_t>()[1] = 63;
  EXPECT_THAT(decode_error(compressed_tensors(), s.config, s.tensors, 32, 64),
              HasSubstr("'m.weight_shape': [32, 63], expected [32, 64]"));
  const int32_t shape[2] = {32, 64};
  s.at("m.weight_shape") = Tensor::copy_of(Dtype::kI32, {2}, std::span<const int32_t>(shape));
  EXPECT_EQ(decode_error(compressed_tensors(), s.config, s.tensors, 32, 64), "");
}

TEST(CompressedTensors, GroupsOfColumnsNotFilledInAreIgnored) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 32, 64, 1, true);
  Stored s = stored(compressed_tensors(), q);
  EXPECT_EQ(s.config.at("config_groups").at("group_0").at("weights").at("actorder"), "group");
  s.at("m.weight_g_idx").mutable_values<int32_t>()[9] = -1;
  {
    const TemporaryFolder folder;
    const Checkpoint checkpoint = written(folder.path() / "model", s.config, s.tensors);
    EXPECT_TRUE(compressed_tensors().decode(checkpoint, "m", 32, 64).group_of_column.empty());
  }
  s.at("m.weight_g_idx").mutable_values<int32_t>()[9] = 2;
  EXPECT_THAT(decode_error(compressed_tensors(), s.config, s.tensors, 32, 64),
              HasSubstr("column 9 is in group 2, expected 0 to 1"));
}

QuantizedLinear w8a8_layer(const ActivationScheme& activations, bool per_tensor = false) {
  Scheme scheme = integer_scheme(8, kAll, true, Dtype::kF16, per_tensor);
  QuantizedLinear q = random_layer(scheme, 32, 64, 1);
  q.scheme.activations = activations;
  if (activations.dynamic) return q;
  const float scale = 0.25F;
  q.input_scale = Tensor::copy_of(Dtype::kF32, {1}, std::span(&scale, 1));
  const int8_t zero = -5;
  if (!activations.symmetric) q.input_zero = Tensor::copy_of(Dtype::kI8, {1}, std::span(&zero, 1));
  return q;
}

TEST(IntQuantized, EveryKindOfActivationsComesBack) {
  for (const bool per_tensor : {false, true}) {
    for (const ActivationScheme& activations :
         {ActivationScheme{}, ActivationScheme{.per_token = false},
          ActivationScheme{.symmetric = false},
          ActivationScheme{.dynamic = false, .per_token = false},
          ActivationScheme{.symmetric = false, .dynamic = false, .per_token = false}}) {
      const QuantizedLinear q = w8a8_layer(activations, per_tensor);
      EXPECT_EQ(fingerprint(round_trip(compressed_tensors(), q)), fingerprint(q))
          << describe(q.scheme);
    }
  }
}

TEST(IntQuantized, TheConfigIsThatOfTheLibrary) {
  const Json config = stored(compressed_tensors(), w8a8_layer({})).config;
  EXPECT_EQ(config.at("format"), "int-quantized");
  EXPECT_EQ(config.at("config_groups").dump(),
            R"({"group_0":{"targets":["Linear"],"weights":{"num_bits":8,"type":"int",)"
            R"("symmetric":true,"strategy":"channel","dynamic":false},"input_activations":)"
            R"({"num_bits":8,"type":"int","symmetric":true,"strategy":"token","dynamic":true},)"
            R"("output_activations":null,"format":"int-quantized"}})");
}

TEST(IntQuantized, StoresSignedIntegers) {
  QuantizedLinear q = w8a8_layer({});
  auto codes = q.codes.mutable_values<uint8_t>();
  codes[0] = 0;
  codes[1] = 128;
  codes[2] = 255;
  const Tensor weight = encoded(compressed_tensors(), q, "m.weight");
  const auto values = weight.values<int8_t>();
  EXPECT_EQ(values[0], -128);
  EXPECT_EQ(values[1], 0);
  EXPECT_EQ(values[2], 127);
}

TEST(IntQuantized, MixedWithPackedLayersEachHasItsGroup) {
  const TemporaryFolder folder;
  const QuantizedLinear packed = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 32, 64, 2);
  const QuantizedLinear integers = w8a8_layer({});
  const Checkpoint checkpoint =
      written(folder.path() / "model", compressed_tensors(), {{"a", packed}, {"b", integers}});
  EXPECT_EQ(checkpoint.quantization_config().at("format"), "mixed-precision");
  EXPECT_EQ(fingerprint(compressed_tensors().decode(checkpoint, "a", 32, 64)), fingerprint(packed));
  EXPECT_EQ(fingerprint(compressed_tensors().decode(checkpoint, "b", 32, 64)),
            fingerprint(integers));
}

TEST(IntQuantized, BrokenFilesAreErrors) {
  const QuantizedLinear q = w8a8_layer({.dynamic = false, .per_token = false});
  const std::string group = "/config_groups/group_0";
  struct Edit {
    std::string pointer;
    const char* value;
    const char* message;
  };
  for (const Edit& edit : std::vector<Edit>{
           {group + "/weights/num_bits", "4", "num_bits 4 is not read yet"},
           {group + "/weights/symmetric", "false", "zero points or groups"},
           {group + "/weights/strategy", R"("tensor")", "'m.weight_scale': shape [32, 1]"},
           {group + "/input_activations/num_bits", "4", "4-bit activations"},
           {group + "/input_activations/type", R"("float")", "activations of type 'float'"},
           {group + "/input_activations/strategy", R"("group")", "activations by 'group'"},
           {group + "/input_activations/strategy", R"("token")", "static activations by token"},
           {group + "/input_activations/symmetric", "false", "m.input_zero_point"},
           {group + "/input_activations", "[]", "'input_activations' is no object"}}) {
    Stored s = stored(compressed_tensors(), q);
    s.config[Json::json_pointer(edit.pointer)] = Json::parse(edit.value);
    EXPECT_THAT(decode_error(compressed_tensors(), s.config, s.tensors, 32, 64),
                HasSubstr(edit.message))
        << edit.pointer << " " << edit.value;
  }
  for (const char* name : {"m.weight_scale", "m.input_scale"}) {
    Stored s = stored(compressed_tensors(), q);
    s.remove(name);
    EXPECT_THAT(decode_error(compressed_tensors(), s.config, s.tensors, 32, 64), HasSubstr(name));
  }
  Stored s = stored(compressed_tensors(), q);
  EXPECT_THAT(decode_error(compressed_tensors(), s.config, s.tensors, 32, 60),
              HasSubstr("'m.weight': shape [32, 64], expected [32, 60]"));
}

}  // namespace
}  // namespace nibble
