// FP8, NVFP4 and MXFP4 in compressed-tensors: the bytes and inputs of the library itself
// (tools/golden/floats.py), a decoder from the page, configurations and broken files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/float_inputs.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
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

const Format& compressed_format() { return format("compressed-tensors"); }

const ActivationScheme kPerToken = {.is_float = true};
const ActivationScheme kStatic = {.dynamic = false, .per_token = false, .is_float = true};
const ActivationScheme kGroups128 = {.is_float = true, .columns = kFp8Block};
const ActivationScheme kNvfp4Inputs = {
    .bits = 4, .dynamic = false, .is_float = true, .columns = kNvfp4Group, .divides = true};
const ActivationScheme kMxfp4Inputs = {.bits = 4, .is_float = true, .columns = kMxfp4Group};

Scheme with(Scheme scheme, const ActivationScheme& activations) {
  scheme.activations = activations;
  return scheme;
}

// ---- bytes of the library -----------------------------------------------------------------------

std::string crc_text(std::span<const std::byte> bytes) {
  std::array<char, 9> text{};
  const auto value = crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
  std::snprintf(text.data(), text.size(), "%08x", static_cast<uint32_t>(value));
  return text.data();
}

std::string crc_text(const Matrix& W) {
  return crc_text(std::as_bytes(std::span(W.data(), static_cast<size_t>(W.size()))));
}

// That of tools/golden/rtn.py.
Matrix rtn_weights(int64_t K) {
  Matrix W(8, K);
  uint32_t state = 12345;
  for (int64_t i = 0; i < W.size(); ++i) {
    state = state * 1664525U + 1013904223U;
    W.data()[i] = static_cast<float>(static_cast<int>(state >> 8) - (1 << 23)) * 0x1p-23F;
  }
  for (int n = 0; n < 8; ++n) W.row(n) *= std::ldexp(1.F, -(n % 4));
  W.row(1) = W.row(1).cwiseAbs();
  W.row(2) = -W.row(2).cwiseAbs();
  W.row(3).head(64).setZero();
  W.row(4) *= 0x1p-24F;
  W.row(5) *= 0x1p-14F;
  for (int64_t k = 0; k < K; ++k) W(6, k) = static_cast<float>(k * 7 % 31 - 15) / 2.F;
  return W;
}

Matrix source_weights(const std::string& source) {
  if (source.starts_with("rtn ")) return rtn_weights(std::stol(source.substr(4)));
  const Tensor tensor = Checkpoint::open(own_test_data() / "bookworm-5m").tensor(source);
  Matrix W(tensor.shape()[0], tensor.shape()[1]);
  to_float(tensor.view(), {W.data(), static_cast<size_t>(W.size())});
  return W;
}

Scheme preset(const std::string& name, Dtype scale) {
  if (name == "FP8_DYNAMIC") return fp8_scheme({}, scale);
  if (name == "FP8") return fp8_scheme({.rows = kAll, .columns = kAll}, scale);
  if (name == "FP8_BLOCK") return fp8_scheme({.rows = kFp8Block, .columns = kFp8Block}, scale);
  return name == "NVFP4A16" ? nvfp4_scheme(true) : mxfp4_scheme();
}

Json golden_file() { return read_json(own_test_data().parent_path() / "golden" / "floats.json"); }

TEST(FloatFormats, BytesAreThoseOfCompressedTensors) {
  const Json rows = golden_file().at("results");
  ASSERT_EQ(rows.size(), 25U);
  for (const Json& row : rows) {
    const std::string name = row.at("preset");
    const std::string what = name + " of " + row.at("source").get<std::string>();
    const Matrix W = source_weights(row.at("source"));
    const RoundedLinear rounded = quantize_to_floats(W, preset(name, Dtype::kF32), 0.F, "m");
    ASSERT_NO_THROW(check(rounded.q, "m"));
    for (const auto& [tensor_name, tensor] :
         compressed_format().encode(module_of("m", rounded.q), rounded.q)) {
      EXPECT_EQ(crc_text(tensor.bytes()), row.at(tensor_name.substr(2)).get<std::string>())
          << what << tensor_name;
    }
    const Matrix back = dequantize(rounded.q);
    EXPECT_EQ(crc_text(back), row.at("weights").get<std::string>()) << what;
    if (!row.contains("scales_f16")) continue;
    const QuantizedLinear halves = quantize_to_floats(W, preset(name, Dtype::kF16), 0.F, "m").q;
    EXPECT_EQ(crc_text(halves.scale.values.bytes()), row.at("scales_f16").get<std::string>())
        << what;
  }
}

TEST(FloatFormats, InputsAreThoseOfCompressedTensors) {
  const Json rows = golden_file().at("inputs");
  ASSERT_GE(rows.size(), 20U);
  for (const Json& row : rows) {
    const std::string name = row.at("preset");
    const Matrix x = source_weights(row.at("source"));
    const float largest = x.cwiseAbs().maxCoeff();
    const ActivationScheme scheme = name == "FP8_DYNAMIC" ? kPerToken
                                    : name == "FP8"       ? kStatic
                                    : name == "FP8_BLOCK" ? kGroups128
                                    : name == "NVFP4"     ? kNvfp4Inputs
                                                          : kMxfp4Inputs;
    const float scale =
        scheme.dynamic ? 1.F : float_input_scale(scheme, name == "FP8" ? largest / 2.F : largest);
    EXPECT_EQ(crc_text(rounded_inputs(x, scheme, scale)), row.at("inputs").get<std::string>())
        << name << " of " << row.at("source");
  }
}

// ---- a decoder from formats/compressed_tensors.md alone -----------------------------------------

float e2m1(int code) {
  constexpr std::array kMagnitudes = {0.F, .5F, 1.F, 1.5F, 2.F, 3.F, 4.F, 6.F};
  const float magnitude = kMagnitudes[static_cast<size_t>(code & 7)];
  return (code & 8) != 0 ? -magnitude : magnitude;
}

int page_code(const Tensor& packed, int64_t n, int64_t k) {
  const uint8_t byte = packed.values<uint8_t>()[static_cast<size_t>(n * packed.shape()[1] + k / 2)];
  return k % 2 == 0 ? byte & 15 : byte >> 4;
}

TEST(FloatFormats, Nvfp4AndMxfp4AgreeWithADecoderFromThePage) {
  const QuantizedLinear nv = random_layer(nvfp4_scheme(true), 5, 64, 3);
  const QuantizedLinear mx = random_layer(mxfp4_scheme(), 5, 64, 4);
  Stored nv_stored = stored(compressed_format(), nv);
  Stored mx_stored = stored(compressed_format(), mx);
  const float global = nv_stored.at("m.weight_global_scale").values<float>()[0];
  const Matrix nv_weights = dequantize(nv);
  const Matrix mx_weights = dequantize(mx);
  for (int64_t n = 0; n < 5; ++n) {
    for (int64_t k = 0; k < 64; ++k) {
      const uint8_t local =
          nv_stored.at("m.weight_scale").values<uint8_t>()[static_cast<size_t>(n * 4 + k / 16)];
      EXPECT_EQ(nv_weights(n, k), e2m1(page_code(nv_stored.at("m.weight_packed"), n, k)) *
                                      (f8_to_float(local, Dtype::kF8E4M3) / global));
      const uint8_t exponent =
          mx_stored.at("m.weight_scale").values<uint8_t>()[static_cast<size_t>(n * 2 + k / 32)];
      EXPECT_EQ(mx_weights(n, k),
                std::ldexp(e2m1(page_code(mx_stored.at("m.weight_packed"), n, k)), exponent - 127));
    }
  }
}

// The page's worked example: one group of 16 with 6, -3, 0.3, -0.1 and zeros in a tensor whose
// largest weight is 12.
TEST(FloatFormats, WorkedExample) {
  Matrix W = Matrix::Zero(1, 32);
  W.row(0).head(4) << 6.F, -3.F, 0.3F, -0.1F;
  W(0, 16) = 12.F;
  const QuantizedLinear q = quantize_to_floats(W, nvfp4_scheme(true), 0.F, "m").q;
  Stored s = stored(compressed_format(), q);
  EXPECT_EQ(s.at("m.weight_global_scale").values<float>()[0], 224.F);
  EXPECT_EQ(f8_to_float(s.at("m.weight_scale").values<uint8_t>()[0], Dtype::kF8E4M3), 224.F);
  EXPECT_EQ(f8_to_float(s.at("m.weight_scale").values<uint8_t>()[1], Dtype::kF8E4M3), 448.F);
  EXPECT_EQ(s.at("m.weight_packed").values<uint8_t>()[0], 0xD7);
  EXPECT_EQ(s.at("m.weight_packed").values<uint8_t>()[1], 0x81);
  EXPECT_EQ(dequantize(q)(0, 2), 0.5F);
}

// ---- round trips and configurations -------------------------------------------------------------

TEST(FloatFormats, EveryKindComesBack) {
  for (const Dtype scale : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
    for (const Blocking& blocking : {Blocking{}, Blocking{.rows = kAll, .columns = kAll},
                                     Blocking{.rows = 16, .columns = 32}}) {
      const Scheme scheme = fp8_scheme(blocking, scale);
      for (const Scheme& each :
           {scheme, with(scheme, kPerToken), with(scheme, kStatic), with(scheme, kGroups128)}) {
        const QuantizedLinear q = random_layer(each, 40, 64, 7);
        EXPECT_EQ(compressed_format().refusal(module_of("m", q)), "") << describe(each);
        EXPECT_EQ(fingerprint(round_trip(compressed_format(), q)), fingerprint(q))
            << describe(each);
      }
    }
  }
  for (const Scheme& scheme :
       {nvfp4_scheme(true), with(nvfp4_scheme(true), kNvfp4Inputs), mxfp4_scheme(),
        with(mxfp4_scheme(), kMxfp4Inputs), with(mxfp4_scheme(), kGroups128)}) {
    const QuantizedLinear q = random_layer(scheme, 5, 96, 8);
    EXPECT_EQ(compressed_format().refusal(module_of("m", q)), "") << describe(scheme);
    EXPECT_EQ(fingerprint(round_trip(compressed_format(), q)), fingerprint(q)) << describe(scheme);
  }
}

TEST(FloatFormats, RefusalsSayWhy) {
  const auto refusal = [](const Scheme& scheme, int64_t K = 64, bool groups = false) {
    FormatModule module = dense_module("m", 32, K);
    module.scheme = scheme;
    module.has_column_groups = groups;
    return compressed_format().refusal(module);
  };
  const Scheme fp8 = fp8_scheme({}, Dtype::kF16);
  EXPECT_THAT(refusal(fp8_scheme({.columns = 32}, Dtype::kF16)), "");
  EXPECT_THAT(refusal(fp8_scheme({}, Dtype::kF8E8M0)), HasSubstr("not F8_E8M0"));
  EXPECT_THAT(refusal(with(fp8, {})), HasSubstr("activations are FP8"));
  EXPECT_THAT(refusal(with(fp8, kMxfp4Inputs)), HasSubstr("activations are FP8"));
  EXPECT_THAT(refusal(fp8, 64, true), HasSubstr("no act-order"));
  EXPECT_THAT(refusal(nvfp4_scheme(true), 72), HasSubstr("K = 72 is not a multiple"));
  EXPECT_THAT(refusal(mxfp4_scheme(), 48), HasSubstr("K = 48 is not a multiple"));
  EXPECT_THAT(refusal(nvfp4_scheme(false)), HasSubstr("second-level scale divides"));
  EXPECT_THAT(refusal(with(nvfp4_scheme(true), kPerToken)), HasSubstr("NVFP4 weights have no fp8"));
  EXPECT_THAT(refusal(with(mxfp4_scheme(), kNvfp4Inputs)), HasSubstr("MXFP4 weights have no fp4"));
}

TEST(FloatFormats, TheConfigsAreThoseOfTheLibrary) {
  const auto group = [](const Scheme& scheme) {
    return stored(compressed_format(), random_layer(scheme, 32, 128, 1))
        .config.at("config_groups")
        .at("group_0");
  };
  const Json fp8 = group(with(fp8_scheme({}, Dtype::kF16), kPerToken));
  EXPECT_EQ(fp8.at("format"), "float-quantized");
  EXPECT_EQ(
      fp8.at("weights").dump(),
      R"({"num_bits":8,"type":"float","symmetric":true,"strategy":"channel","dynamic":false})");
  EXPECT_EQ(fp8.at("input_activations").dump(),
            R"({"num_bits":8,"type":"float","symmetric":true,"strategy":"token","dynamic":true})");
  const Json block =
      group(with(fp8_scheme({.rows = 128, .columns = 128}, Dtype::kF16), kGroups128));
  EXPECT_EQ(block.at("weights").at("strategy"), "block");
  EXPECT_EQ(block.at("weights").at("block_structure").dump(), "[128,128]");
  EXPECT_EQ(block.at("input_activations").at("strategy"), "group");
  EXPECT_EQ(block.at("input_activations").at("group_size"), 128);
  const Json nvfp4 = group(with(nvfp4_scheme(true), kNvfp4Inputs));
  EXPECT_EQ(nvfp4.at("format"), "nvfp4-pack-quantized");
  EXPECT_EQ(nvfp4.at("weights").at("strategy"), "tensor_group");
  EXPECT_EQ(nvfp4.at("input_activations").at("dynamic"), "local");
  const Json mxfp4 = group(mxfp4_scheme());
  EXPECT_EQ(mxfp4.at("format"), "mxfp4-pack-quantized");
  EXPECT_EQ(mxfp4.at("weights").dump(),
            R"({"num_bits":4,"type":"float","symmetric":true,"strategy":"group","group_size":32,)"
            R"("dynamic":false,"scale_dtype":"torch.uint8"})");
}

// FP8 weights alone are "naive-quantized" to the library.
TEST(FloatFormats, NaiveQuantizedIsTheSame) {
  const QuantizedLinear q = random_layer(fp8_scheme({}, Dtype::kBF16), 32, 64, 9);
  Stored s = stored(compressed_format(), q);
  s.config["format"] = "naive-quantized";
  s.config["config_groups"]["group_0"]["format"] = "naive-quantized";
  EXPECT_EQ(decode_error(compressed_format(), s.config, s.tensors, 32, 64), "");
  const TemporaryFolder folder;
  const Checkpoint checkpoint = written(folder.path() / "model", s.config, s.tensors);
  EXPECT_EQ(fingerprint(compressed_format().decode(checkpoint, "m", 32, 64)), fingerprint(q));
}

struct ConfigEdit {
  std::string pointer;
  const char* value;
  const char* message;
};

TEST(FloatFormats, ConfigsOfOthers) {
  const std::string weights = "/config_groups/group_0/weights";
  const std::string inputs = "/config_groups/group_0/input_activations";
  const auto expect_errors = [](const Scheme& scheme, const std::vector<ConfigEdit>& edits) {
    const QuantizedLinear q = random_layer(scheme, 32, 64, 1);
    for (const ConfigEdit& edit : edits) {
      Stored s = stored(compressed_format(), q);
      s.config[Json::json_pointer(edit.pointer)] = Json::parse(edit.value);
      const std::string error = decode_error(compressed_format(), s.config, s.tensors, 32, 64);
      if (*edit.message == '\0') {
        EXPECT_EQ(error, "") << edit.pointer << " " << edit.value;
      } else {
        EXPECT_THAT(error, HasSubstr(edit.message)) << edit.pointer << " " << edit.value;
      }
    }
  };
  expect_errors(
      with(fp8_scheme({.rows = 16, .columns = 32}, Dtype::kF16), kPerToken),
      {{weights + "/type", R"("int")", "type 'int' in float-quantized is not read yet"},
       {weights + "/num_bits", "4", "num_bits 4"},
       {weights + "/symmetric", "false", "asymmetric floating-point weights"},
       {weights + "/block_structure", "[16]", "'block_structure' is [16], expected two positive"},
       {weights + "/block_structure", "[0, 32]", "'block_structure'"},
       {weights + "/block_structure", R"(["16", 32])", "'block_structure'"},
       {weights + "/block_structure", "[16, 16]", "'m.weight_scale': shape [2, 2]"},
       {weights + "/strategy", R"("group")", "strategy 'group'"},
       {inputs + "/type", R"("int")", "activations of type 'int' in float-quantized"},
       {inputs + "/num_bits", "4", "4-bit floating-point activations by 'token'"},
       {inputs + "/dynamic", "false", "8-bit floating-point activations by 'token', static"},
       {inputs + "/dynamic", R"("global")", "'dynamic'"},
       {inputs + "/symmetric", "false", "asymmetric floating-point activations"},
       {inputs + "/scale_dtype", R"("torch.uint8")", "is not read yet"},
       {inputs + "/strategy", R"("group")", "group_size 0"},
       {inputs, "null", ""},
       {inputs + "/strategy", R"("tensor")", ""}});
  expect_errors(with(nvfp4_scheme(true), kNvfp4Inputs),
                {{weights + "/group_size", "32", "group_size 32 of nvfp4-pack-quantized"},
                 {weights + "/strategy", R"("group")", "strategy 'group'"},
                 {weights + "/scale_dtype", R"("torch.float8_e4m3fn")", ""},
                 {inputs + "/group_size", "32", "4-bit floating-point activations"}});
  expect_errors(mxfp4_scheme(),
                {{weights + "/group_size", "64", "group_size 64 of mxfp4-pack-quantized"}});
}

TEST(FloatFormats, BrokenFilesAreErrors) {
  for (const Scheme& scheme : {with(fp8_scheme({}, Dtype::kF16), kStatic),
                               with(nvfp4_scheme(true), kNvfp4Inputs), mxfp4_scheme()}) {
    const QuantizedLinear q = random_layer(scheme, 32, 64, 2);
    const Stored whole = stored(compressed_format(), q);
    EXPECT_NE(decode_error(compressed_format(), whole.config, whole.tensors, 32, 96), "");
    EXPECT_NE(decode_error(compressed_format(), whole.config, whole.tensors, 32, 40), "");
    for (const NamedTensor& part : whole.tensors) {
      Stored broken = whole;
      broken.remove(part.name);
      EXPECT_NE(decode_error(compressed_format(), broken.config, broken.tensors, 32, 64), "")
          << part.name;
      broken = whole;
      broken.at(part.name) = Tensor::allocate(part.tensor.dtype(), {3, 5});
      EXPECT_THAT(decode_error(compressed_format(), broken.config, broken.tensors, 32, 64),
                  HasSubstr("'" + part.name + "': shape [3, 5]"));
    }
  }
}

TEST(FloatFormats, NotANumberIsNamed) {
  QuantizedLinear q = random_layer(fp8_scheme({}, Dtype::kF16), 32, 64, 2);
  Stored s = stored(compressed_format(), q);
  const Tensor weight = s.at("m.weight");
  Tensor broken = Tensor::copy_of(Dtype::kF8E4M3, {32, 64}, weight.values<uint8_t>());
  broken.mutable_values<uint8_t>()[70] = 0xFF;
  s.at("m.weight") = broken;
  EXPECT_THAT(decode_error(compressed_format(), s.config, s.tensors, 32, 64),
              HasSubstr("code 255 at row 1, column 6 is no level of e4m3"));
  q = random_layer(mxfp4_scheme(), 32, 64, 2);
  s = stored(compressed_format(), q);
  Tensor scales = Tensor::copy_of(Dtype::kU8, {32, 2}, s.at("m.weight_scale").values<uint8_t>());
  scales.mutable_values<uint8_t>()[3] = 255;
  s.at("m.weight_scale") = scales;
  EXPECT_THAT(decode_error(compressed_format(), s.config, s.tensors, 32, 64),
              HasSubstr("NaN at row 1, group 1"));
}

}  // namespace
}  // namespace nibble
