#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "formats/scheme_json.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"
#include "tests/formats/layers.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

const Format& nibble_format() { return format("nibble"); }

std::vector<float> table(int entries) {
  std::vector<float> values(static_cast<size_t>(entries));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = std::sin(0.37f * static_cast<float>(i + 1)) / 3.f;  // no short decimals
  }
  return values;
}

Parameter parameter(Dtype type, int bits, std::optional<SecondLevel> second = {},
                    std::vector<float> values = {}) {
  return {.type = type, .bits = bits, .table = std::move(values), .second = second};
}

// What the formats of others are made of, and what none of them holds.
std::vector<std::pair<std::string, Scheme>> special_schemes() {
  std::vector<std::pair<std::string, Scheme>> all;
  Scheme nf4;  // bitsandbytes: blocks over the flattened matrix, absmax quantized again
  nf4.grid = {.kind = Grid::Kind::kTable, .bits = 4, .name = "nf4", .table = table(16)};
  nf4.blocking = {.rows = 1, .columns = 64, .flattened = true};
  nf4.scale =
      parameter(Dtype::kU8, 8, SecondLevel{.type = Dtype::kF32, .block = 256, .has_offset = true},
                table(256));
  all.emplace_back("nf4 double-quantized", nf4);

  Scheme q4_k = integer_scheme(4, 32, true, Dtype::kF16);
  q4_k.grid.lowest = 0;
  q4_k.scale = parameter(Dtype::kU8, 6, SecondLevel{.block = 8});
  q4_k.minimum = q4_k.scale;
  all.emplace_back("q4_k", q4_k);

  Scheme q3_k = integer_scheme(3, 16, true, Dtype::kF16);
  q3_k.scale = parameter(Dtype::kI8, 6, SecondLevel{.block = 16});
  all.emplace_back("q3_k", q3_k);

  Scheme nvfp4;
  nvfp4.grid = {.kind = Grid::Kind::kTable, .bits = 4, .name = "e2m1", .table = table(16)};
  nvfp4.blocking.columns = 16;
  nvfp4.scale = parameter(Dtype::kF8E4M3, 8,
                          SecondLevel{.type = Dtype::kF32, .block = kAll, .divides = true});
  all.emplace_back("nvfp4", nvfp4);

  Scheme kmeans;
  kmeans.grid = {.kind = Grid::Kind::kCodebook, .bits = 3, .name = {}, .table = {}};
  kmeans.codebook_blocking = {.rows = 1, .columns = kAll};
  all.emplace_back("k-means per row", kmeans);
  kmeans.codebook_blocking = {.rows = kAll, .columns = kAll};
  kmeans.scale = parameter(Dtype::kBF16, 16);
  all.emplace_back("k-means of the tensor with scales", kmeans);

  Scheme w8a8 = integer_scheme(8, kAll, true, Dtype::kF32);
  w8a8.activations = ActivationScheme{.symmetric = false, .dynamic = false, .per_token = false};
  all.emplace_back("w8a8 static", w8a8);
  w8a8.activations = ActivationScheme{};
  all.emplace_back("w8a8 dynamic", w8a8);

  Scheme qserve = integer_scheme(4, 32, false, Dtype::kF16);
  qserve.scale = parameter(Dtype::kI8, 8, SecondLevel{.type = Dtype::kF16, .block = kOneRow});
  all.emplace_back("qserve", qserve);

  all.emplace_back("ragged 5 bit", integer_scheme(5, 24, false, Dtype::kF32));
  return all;
}

TEST(Nibble, HoldsEverySchemeBitForBit) {
  for (const auto& [name, scheme] : special_schemes()) {
    const QuantizedLinear q = random_layer(scheme, 33, 100, 21);
    const FormatModule module = module_of("m", q);
    EXPECT_EQ(nibble_format().refusal(module), "") << name;
    EXPECT_EQ(fingerprint(round_trip(nibble_format(), q)), fingerprint(q)) << name;
    const auto layout = nibble_format().layout(module);
    const auto tensors = nibble_format().encode(module, q);
    ASSERT_EQ(layout.size(), tensors.size()) << name;
    for (size_t i = 0; i < layout.size(); ++i) {
      EXPECT_EQ(layout[i].shape, tensors[i].tensor.shape()) << name << ": " << layout[i].name;
    }
  }
}

TEST(Nibble, OthersRefuseWhatOnlyItHolds) {
  for (const auto& [name, scheme] : special_schemes()) {
    FormatModule module = dense_module("m", 64, 128);
    module.scheme = scheme;
    const bool is_w8a8 = scheme.activations.has_value();  // held by compressed-tensors too
    for (const char* other : {"compressed-tensors", "gptq", "awq"}) {
      if (is_w8a8 && std::string_view(other) == "compressed-tensors") continue;
      EXPECT_NE(format(other).refusal(module), "") << name << " in " << other;
    }
  }
}

TEST(Nibble, CodebooksKeepTheirType) {
  QuantizedLinear q = random_layer(special_schemes()[4].second, 8, 40, 1);
  q.codebooks = Tensor::allocate(Dtype::kF32, q.codebooks.shape());
  EXPECT_EQ(fingerprint(round_trip(nibble_format(), q)), fingerprint(q));
  FormatModule module = module_of("m", q);
  module.codebook_type = Dtype::kF16;
  EXPECT_THROW(nibble_format().encode(module, q), Error);
}

// ---- a decoder from formats/nibble.md alone -----------------------------------------------------

TEST(Nibble, CodesAgreeWithADecoderFromThePage) {
  for (int bits = 1; bits <= 8; ++bits) {
    const QuantizedLinear q = random_layer(integer_scheme(bits, 16, true, Dtype::kF16), 9, 53, 31);
    const Tensor codes = encoded(nibble_format(), q, "m.codes");
    const int64_t row_bytes = (53 * bits + 7) / 8;
    ASSERT_EQ(codes.shape(), (Shape{9, row_bytes}));
    for (int64_t n = 0; n < 9; ++n) {
      for (int64_t k = 0; k < 53; ++k) {
        int code = 0;
        for (int i = 0; i < bits; ++i) {
          const int64_t b = k * bits + i;
          const int byte = codes.values<uint8_t>()[static_cast<size_t>(n * row_bytes + b / 8)];
          code |= (byte >> (b % 8) & 1) << i;
        }
        ASSERT_EQ(code, q.codes.values<uint8_t>()[static_cast<size_t>(n * 53 + k)])
            << bits << " bits at " << n << ", " << k;
      }
    }
  }
}

// The page's worked example: codes 1 to 8 of 5 bits.
TEST(Nibble, WorkedExample) {
  QuantizedLinear q = random_layer(integer_scheme(5, 8, true, Dtype::kF16), 1, 8, 1);
  for (size_t k = 0; k < 8; ++k) {
    q.codes.mutable_values<uint8_t>()[k] = static_cast<uint8_t>(k + 1);
  }
  const Tensor codes = encoded(nibble_format(), q, "m.codes");
  EXPECT_THAT(std::vector<uint8_t>(codes.values<uint8_t>().begin(), codes.values<uint8_t>().end()),
              ::testing::ElementsAre(0x41, 0x0C, 0x52, 0xCC, 0x41));
}

TEST(Nibble, ConfigNamesTheSchemeOfEveryModule) {
  const QuantizedLinear a = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 8, 32, 1);
  const QuantizedLinear b = random_layer(special_schemes()[0].second, 8, 32, 1);
  const TemporaryFolder folder;
  const Checkpoint checkpoint =
      written(folder.path() / "model", nibble_format(), {{"x", a}, {"y", b}, {"z", a}});
  const Json& config = checkpoint.quantization_config();
  EXPECT_EQ(config.at("modules").dump(), R"({"x":0,"y":1,"z":0})");
  EXPECT_EQ(config.at("version"), 1);
  EXPECT_EQ(config.at("schemes")[0].dump(),
            R"({"grid":{"kind":"integer","bits":4,"lowest":-8},"blocking":{"rows":1,"columns":32},)"
            R"("scale":{"type":"F16","bits":16}})");
  EXPECT_EQ(fingerprint(nibble_format().decode(checkpoint, "y", 8, 32)), fingerprint(b));
  EXPECT_EQ(fingerprint(nibble_format().decode(checkpoint, "z", 8, 32)), fingerprint(a));
}

// ---- schemes as JSON ----------------------------------------------------------------------------

TEST(SchemeJson, SchemesComeBackEqual) {
  for (const auto& [name, scheme] : special_schemes()) {
    const std::string text = scheme_to_json(scheme).dump();
    EXPECT_TRUE(scheme_from_json(Json::parse(text), "") == scheme) << name << ": " << text;
  }
}

TEST(SchemeJson, NotANumberSurvives) {
  Scheme scheme;
  scheme.grid = {.kind = Grid::Kind::kTable, .bits = 2, .name = "x", .table = {}};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  scheme.grid.table = {nan, -nan, -0.f, -std::numeric_limits<float>::infinity()};
  const Scheme back = scheme_from_json(Json::parse(scheme_to_json(scheme).dump()), "");
  EXPECT_TRUE(std::isnan(back.grid.table[0]) && !std::signbit(back.grid.table[0]));
  EXPECT_TRUE(std::isnan(back.grid.table[1]) && std::signbit(back.grid.table[1]));
  EXPECT_TRUE(back.grid.table[2] == 0.f && std::signbit(back.grid.table[2]));
  EXPECT_TRUE(std::isinf(back.grid.table[3]));
}

TEST(Nibble, HostileConfigsAreErrors) {
  const QuantizedLinear q = random_layer(special_schemes()[0].second, 8, 40, 1);
  const std::vector<std::tuple<const char*, const char*, const char*>> edits = {
      {"/version", "2", "version 2 of the format nibble"},
      {"/version", "null", "version 0"},
      {"/modules", "[]", "no list of schemes and modules"},
      {"/modules/m", "1", "'m' has scheme 1 of 1"},
      {"/modules/m", "-1", "'m' has scheme -1 of 1"},
      {"/modules/m", "null", "no scheme for 'm'"},
      {"/schemes", "{}", "no list of schemes and modules"},
      {"/schemes/0", "3", "scheme 0: not an object"},
      {"/schemes/0/grid", "null", "grid: not an object"},
      {"/schemes/0/grid/bits", "9", "'bits' is 9, expected 1 to 8"},
      {"/schemes/0/grid/bits", "3", "a table has not 8 entries"},
      {"/schemes/0/grid/kind", "\"ternary\"", "unknown 'kind'"},
      {"/schemes/0/grid/kind", "\"integer\"", "a table belongs to the kind 'table'"},
      {"/schemes/0/grid/table", "[1]", "a table has not 16 entries"},
      {"/schemes/0/grid/table/3", "\"x\"", "no number"},
      {"/schemes/0/grid/new", "1", "unknown field 'new'"},
      {"/schemes/0/blocking/columns", "0", "'columns' is 0"},
      {"/schemes/0/blocking/columns", "9223372036854775807", "'columns' is 9223372036854775807"},
      {"/schemes/0/blocking/columns", "\"all\"", "make no blocks"},
      {"/schemes/0/blocking/columns", "\"row\"", "make no blocks"},
      {"/schemes/0/blocking/columns", "32", "'m.scale': shape [5], expected [10]"},
      {"/schemes/0/scale/type", "\"I64\"", "neither a float type nor U8 nor I8"},
      {"/schemes/0/scale/type", "\"X\"", "'type' is no element type"},
      {"/schemes/0/scale/bits", "0", "'bits' is 0, expected 1 to 8"},
      {"/schemes/0/scale/second/type", "\"U8\"", "'type' is no float type"},
      {"/schemes/0/scale/second/block", "-3", "'block' is -3"},
      {"/schemes/0/scale/second/has_offset", "false", "tensors that its scheme does not know"},
      {"/schemes/0/zero", R"({"type": "U8", "bits": 4})", "m.zero"}};
  for (const auto& [pointer, value, message] : edits) {
    Stored s = stored(nibble_format(), q);
    s.config[Json::json_pointer(pointer)] = Json::parse(value);
    EXPECT_THAT(decode_error(nibble_format(), s.config, s.tensors, 8, 40), HasSubstr(message))
        << pointer << " " << value;
  }
}

}  // namespace
}  // namespace nibble
