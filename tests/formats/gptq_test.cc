#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
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

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const Format& gptq() { return format("gptq"); }

// ---- a decoder from formats/gptq.md alone -------------------------------------------------------

float page_weight(const Stored& s, int64_t N, int64_t n, int64_t k, int bits, bool version1) {
  auto& stored_tensors = const_cast<Stored&>(s);
  const Tensor& zeros = stored_tensors.at("m.qzeros");
  const int32_t group = stored_tensors.at("m.g_idx").values<int32_t>()[static_cast<size_t>(k)];
  const int code = read_streamed_code(stored_tensors.at("m.qweight"), n, N, k, bits);
  const int zero =
      read_streamed_code(zeros, group * zeros.shape()[1], 1, n, bits) + (version1 ? 1 : 0);
  const auto scales = stored_tensors.at("m.scales").values<uint16_t>();
  return f16_to_float(scales[static_cast<size_t>(group * N + n)]) * static_cast<float>(code - zero);
}

TEST(Gptq, AgreesWithADecoderFromThePage) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const bool column_groups : {true, false}) {
        const QuantizedLinear q = random_layer(integer_scheme(bits, 32, symmetric, Dtype::kF16), 32,
                                               96, 11, column_groups);
        const Stored s = stored(gptq(), q);
        const Matrix W = dequantize(q);
        for (int64_t n = 0; n < q.N; ++n) {
          for (int64_t k = 0; k < q.K; ++k) {
            ASSERT_EQ(page_weight(s, q.N, n, k, bits, symmetric), W(n, k))
                << bits << " bits, symmetric " << symmetric << " at " << n << ", " << k;
          }
        }
      }
    }
  }
}

// The page's worked example.
TEST(Gptq, WorkedExample) {
  QuantizedLinear q = random_layer(integer_scheme(3, 32, true, Dtype::kF16), 32, 32, 1);
  const auto codes = q.codes.mutable_values<uint8_t>();
  for (size_t k = 0; k < 32; ++k) codes[k] = static_cast<uint8_t>(k % 8);
  q.scale.values.mutable_values<uint16_t>()[0] = 0x3400;  // 0.25
  Stored s = stored(gptq(), q);
  const auto words = s.at("m.qweight").values<uint32_t>();
  EXPECT_THAT((std::vector<uint32_t>{words[0], words[32], words[64]}),
              ElementsAre(0x88FAC688u, 0xC688FAC6u, 0xFAC688FAu));
  const auto zeros = s.at("m.qzeros").values<uint32_t>();
  EXPECT_THAT((std::vector<uint32_t>(zeros.begin(), zeros.end())),
              ElementsAre(0xDB6DB6DBu, 0xB6DB6DB6u, 0x6DB6DB6Du));
  EXPECT_EQ(dequantize(q)(0, 10), -0.5f);  // code 2, zero 4
}

TEST(Gptq, SymmetricIsVersionOneAndAsymmetricVersionTwo) {
  const QuantizedLinear symmetric =
      random_layer(integer_scheme(4, kAll, true, Dtype::kF16), 32, 32, 1);
  Stored s = stored(gptq(), symmetric);
  EXPECT_EQ(s.config.at("checkpoint_format"), "gptq");
  EXPECT_EQ(s.config.at("sym"), true);
  EXPECT_EQ(s.at("m.qzeros").values<uint32_t>()[0], 0x77777777u);
  EXPECT_EQ(s.config.at("group_size"), -1);

  QuantizedLinear asymmetric = random_layer(integer_scheme(4, 32, false, Dtype::kF16), 32, 32, 1);
  for (size_t n = 0; n < 8; ++n) {
    asymmetric.zero.values.mutable_values<uint8_t>()[n] = static_cast<uint8_t>(n);
  }
  s = stored(gptq(), asymmetric);
  EXPECT_EQ(s.config.at("checkpoint_format"), "gptq_v2");
  EXPECT_EQ(s.config.at("sym"), false);
  EXPECT_EQ(s.at("m.qzeros").values<uint32_t>()[0], 0x76543210u);
}

TEST(Gptq, GroupsOfColumnsAreAlwaysWritten) {
  const QuantizedLinear plain = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 32, 96, 1);
  Stored s = stored(gptq(), plain);
  EXPECT_EQ(s.config.at("desc_act"), false);
  EXPECT_EQ(s.at("m.g_idx").values<int32_t>()[95], 2);
  s.remove("m.g_idx");
  EXPECT_EQ(decode_error(gptq(), s.config, s.tensors, 32, 96), "");
  const QuantizedLinear ordered =
      random_layer(integer_scheme(4, 32, true, Dtype::kF16), 32, 96, 1, true);
  s = stored(gptq(), ordered);
  EXPECT_EQ(s.config.at("desc_act"), true);
  s.remove("m.g_idx");
  EXPECT_THAT(decode_error(gptq(), s.config, s.tensors, 32, 96), HasSubstr("'m.g_idx' is missing"));
}

TEST(Gptq, UnequalColumnGroupsAreRefused) {
  QuantizedLinear q = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 32, 64, 1, true);
  for (int32_t& group : q.group_of_column) group = 0;
  q.group_of_column[5] = 1;
  EXPECT_THROW(gptq().encode(module_of("m", q), q), Error);
}

TEST(Gptq, GroupsOutOfRangeAreNamed) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 32, 64, 1);
  for (const int32_t bad : {2, -1, 1 << 30}) {
    Stored s = stored(gptq(), q);
    s.at("m.g_idx").mutable_values<int32_t>()[7] = bad;
    EXPECT_THAT(decode_error(gptq(), s.config, s.tensors, 32, 64),
                HasSubstr("column 7 is in group " + std::to_string(bad) + ", expected 0 to 1"));
  }
}

// ---- configuration ------------------------------------------------------------------------------

TEST(Gptq, ModulesThatDifferGoToDynamic) {
  std::vector<FormatModule> modules;
  const auto add = [&](const std::string& name, const std::optional<Scheme>& scheme) {
    modules.push_back(dense_module(name, 64, 64));
    modules.back().scheme = scheme;
  };
  const Scheme int4 = integer_scheme(4, 32, true, Dtype::kF16);
  add("model.layers.0.q", int4);
  add("model.layers.0.k", integer_scheme(8, kAll, true, Dtype::kF16));
  add("model.layers.0.v", std::nullopt);
  add("model.layers.1.q", int4);
  add("lm_head", std::nullopt);
  const Json config = gptq().config(modules);
  EXPECT_EQ(config.at("bits"), 4);
  EXPECT_EQ(config.at("lm_head"), false);
  EXPECT_EQ(config.at("dynamic").dump(),
            R"({"+:^model\\.layers\\.0\\.k$":{"bits":8,"group_size":-1},)"
            R"("-:^model\\.layers\\.0\\.v$":{}})");
  modules[1].scheme = integer_scheme(4, 32, false, Dtype::kF16);
  EXPECT_THROW(gptq().config(modules), Error);
}

TEST(Gptq, DynamicIsRead) {
  const QuantizedLinear q4 = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 32, 64, 1);
  const QuantizedLinear q8 = random_layer(integer_scheme(8, kAll, true, Dtype::kF16), 32, 64, 2);
  const TemporaryFolder folder;
  const Checkpoint checkpoint =
      written(folder.path() / "model", gptq(), {{"a.0", q4}, {"a.1", q4}, {"b.0", q8}});
  EXPECT_EQ(fingerprint(gptq().decode(checkpoint, "a.1", 32, 64)), fingerprint(q4));
  EXPECT_EQ(fingerprint(gptq().decode(checkpoint, "b.0", 32, 64)), fingerprint(q8));
}

struct Edit {
  const char* patch;    // merged into the config
  const char* message;  // "" if it still decodes to the same layer
};

TEST(Gptq, ConfigsOfOthers) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 32, 64, 1);
  for (const Edit& edit : std::vector<Edit>{
           {R"({"checkpoint_format": null, "format": null})", ""},
           {R"({"checkpoint_format": null})", ""},
           {R"({"sym": null, "desc_act": null})", ""},
           {R"({"desc_act": true})", ""},
           {R"({"dynamic": {"+:.*[^m]$": {"bits": 8}, "m": {"group_size": 32}}})", ""},
           {R"({"dynamic": {"-:x": {}}})", ""},
           {R"({"dynamic": {"-:m": {}}})", "'dynamic' excludes 'm'"},
           {R"({"dynamic": {"m": {"bits": 8}}})", "'m.qweight': shape [8, 32], expected [16, 32]"},
           {R"({"dynamic": {"(": {}}})", "'(' is no regular expression"},
           {R"({"dynamic": []})", "'dynamic' is not an object"},
           {R"({"bits": 5})", "bits 5"},
           {R"({"bits": "4"})", "'bits' is \"4\", expected an integer"},
           {R"({"bits": 4.5})", "expected an integer"},
           {R"({"bits": 18446744073709551615})", "expected an integer"},
           {R"({"bits": null})", "no bits"},
           {R"({"group_size": 0})", "group_size 0"},
           {R"({"group_size": -2})", "group_size -2"},
           {R"({"group_size": 16})", "'m.qzeros': shape [2, 4], expected [4, 4]"},
           {R"({"group_size": null})", "no group_size"},
           {R"({"group_size": 9223372036854775807})", "expected an integer up to 2^40"},
           {R"({"dynamic": {"(": {}}})", "'(' is no regular expression"},
           {R"({"sym": 1})", "'sym' is 1, expected true or false"},
           {R"({"pack_dtype": "int64"})", "pack_dtype 'int64' is not read yet"}}) {
    Stored s = stored(gptq(), q);
    s.config.merge_patch(Json::parse(edit.patch));
    const std::string error = decode_error(gptq(), s.config, s.tensors, 32, 64);
    if (*edit.message == '\0') {
      EXPECT_EQ(error, "") << edit.patch;
      EXPECT_TRUE(gptq().recognizes(s.config)) << edit.patch;
    } else {
      EXPECT_THAT(error, HasSubstr(edit.message)) << edit.patch;
    }
  }
}

// AutoGPTQ's file has no quant_method.
TEST(Gptq, OldQuantizeConfigIsRecognized) {
  EXPECT_TRUE(gptq().recognizes(Json::parse(
      R"({"bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": false, "sym": true})")));
  EXPECT_FALSE(gptq().recognizes(Json::parse(R"({"bits": 4, "group_size": 128})")));
  EXPECT_EQ(gptq().config_file, "quantize_config.json");
}

TEST(Gptq, ZerosThatAreNotInTheMiddleMakeItAsymmetric) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 32, 64, 1);
  Stored s = stored(gptq(), q);
  s.at("m.qzeros").mutable_values<uint32_t>()[0] = 0x77777776u;
  const TemporaryFolder folder;
  const Checkpoint checkpoint = written(folder.path() / "model", s.config, s.tensors);
  const QuantizedLinear read = gptq().decode(checkpoint, "m", 32, 64);
  EXPECT_FALSE(read.scheme.symmetric());
  EXPECT_EQ(read.zero.values.values<uint8_t>()[0], 7);
  EXPECT_EQ(read.zero.values.values<uint8_t>()[1], 8);
}

// An asymmetric layer whose zero points happen to be all in the middle stays asymmetric.
TEST(Gptq, AsymmetricStaysAsymmetric) {
  QuantizedLinear q = random_layer(integer_scheme(4, 32, false, Dtype::kF16), 32, 64, 1);
  for (uint8_t& zero : q.zero.values.mutable_values<uint8_t>()) zero = 8;
  EXPECT_EQ(fingerprint(round_trip(gptq(), q)), fingerprint(q));
}

// ---- files of others ----------------------------------------------------------------------------

struct GoldenSlice {
  std::string bytes;
  size_t at = 0;
  uint32_t number() {
    uint32_t value = 0;
    std::memcpy(&value, bytes.data() + at, 4);
    at += 4;
    return value;
  }
  Tensor tensor(Dtype dtype, Shape shape, size_t size) {
    const std::string_view part = std::string_view(bytes).substr(at, size);
    at += size;
    return Tensor::copy_of(dtype, std::move(shape), std::span<const char>(part));
  }
};

// Slices of published checkpoints and the BF16 weights of the reference: /golden/gptq of the test
// data.
TEST(Gptq, GoldenSlicesDecodeBitForBit) {
  NIBBLE_NEEDS_TEST_DATA();
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(test_data() / "golden" / "gptq")) {
    GoldenSlice blob{read_file(entry.path())};
    const int64_t bits = blob.number(), group_size = blob.number();
    const int64_t K = blob.number(), N = blob.number();
    const Dtype scale_dtypes[] = {Dtype::kF32, Dtype::kBF16, Dtype::kF16};
    const Dtype scale_dtype = scale_dtypes[blob.number()];
    const bool has_groups = blob.number() != 0;
    uint32_t sizes[5];
    for (uint32_t& size : sizes) size = blob.number();
    const int64_t groups = K / group_size;
    std::vector<NamedTensor> tensors;
    tensors.push_back({"m.qweight", blob.tensor(Dtype::kI32, {K * bits / 32, N}, sizes[0])});
    tensors.push_back({"m.scales", blob.tensor(scale_dtype, {groups, N}, sizes[1])});
    tensors.push_back({"m.qzeros", blob.tensor(Dtype::kI32, {groups, N * bits / 32}, sizes[2])});
    if (has_groups) tensors.push_back({"m.g_idx", blob.tensor(Dtype::kI32, {K}, sizes[3])});
    const Tensor expected = blob.tensor(Dtype::kBF16, {K, N}, sizes[4]);
    EXPECT_EQ(blob.at, blob.bytes.size());

    const Json config = {{"quant_method", "gptq"}, {"bits", bits}, {"group_size", group_size}};
    const TemporaryFolder folder;
    const Checkpoint checkpoint = written(folder.path() / "model", config, tensors);
    ASSERT_EQ(format_of(checkpoint), &gptq());
    const QuantizedLinear q = gptq().decode(checkpoint, "m", N, K);
    FormatModule module = module_of("m", q, Dtype::kBF16);
    module.transposed = true;
    const Tensor weights = format("dense").encode(module, q)[0].tensor;
    ASSERT_EQ(weights.bytes().size(), expected.bytes().size());
    EXPECT_TRUE(std::ranges::equal(weights.bytes(), expected.bytes())) << entry.path();
    ++files;
  }
  EXPECT_EQ(files, 2);
}

}  // namespace
}  // namespace nibble
