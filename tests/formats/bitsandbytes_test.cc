// bitsandbytes' checkpoints: the page's worked example, real ones of others, broken ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/llm_int8.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
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

const Format& bitsandbytes() { return format("bitsandbytes"); }

Tensor text_tensor(const std::string& text) {
  return Tensor::copy_of(Dtype::kU8, {std::ssize(text)},
                         std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
}

std::string text_of(const Tensor& tensor) {
  const auto bytes = tensor.values<uint8_t>();
  return {bytes.begin(), bytes.end()};
}

// ---- bytes of bitsandbytes itself (tools/golden/bitsandbytes_reference.py) ----------------------

std::string crc(std::span<const std::byte> bytes) {
  std::array<char, 9> text{};
  const auto value = crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
  std::snprintf(text.data(), text.size(), "%08x", static_cast<uint32_t>(value));
  return text.data();
}

// Of floats with one zero, +0: bitsandbytes' CPU code has no other.
std::string crc_of_floats(std::span<const float> values) {
  std::vector<float> copy(values.begin(), values.end());
  for (float& value : copy) value += 0.F;
  return crc(std::as_bytes(std::span(copy)));
}

Matrix generated(int64_t N, int64_t K) {
  Matrix W(N, K);
  uint32_t state = 12345;
  for (int64_t i = 0; i < W.size(); ++i) {
    state = state * 1664525U + 1013904223U;
    W.data()[i] = static_cast<float>(static_cast<int>(state >> 8) - (1 << 23)) * 0x1p-23F;
  }
  return W;
}

// That of tools/golden/rtn.py.
Matrix rtn_matrix(int64_t K) {
  Matrix W = generated(8, K);
  for (int n = 0; n < 8; ++n) W.row(n) *= std::ldexp(1.F, -(n % 4));
  W.row(1) = W.row(1).cwiseAbs();
  W.row(2) = -W.row(2).cwiseAbs();
  W.row(3).head(64).setZero();
  W.row(4) *= 0x1p-24F;
  W.row(5) *= 0x1p-14F;
  for (int64_t k = 0; k < K; ++k) W(6, k) = static_cast<float>(k * 7 % 31 - 15) / 2.F;
  return W;
}

Matrix weights_of(const std::string& source) {
  if (source.starts_with("rtn ")) return rtn_matrix(std::stol(source.substr(4)));
  if (source == "long") return generated(1, (1 << 21) + 5);
  const Tensor tensor = Checkpoint::open(own_test_data() / "bookworm-5m").tensor(source);
  Matrix W(tensor.shape()[0], tensor.shape()[1]);
  to_float(tensor.view(), {W.data(), static_cast<size_t>(W.size())});
  return W;
}

Json golden() {
  return read_json(std::filesystem::path(NIBBLE_SOURCE_DIR) / "tests" / "golden" /
                   "bitsandbytes.json");
}

Scheme scheme_of_case(const Json& row) {
  const auto block = row.at("block").get<int64_t>();
  const bool nested = row.at("double").get<bool>();
  return row.at("kind") == "nf4" ? nf4_scheme(block, nested) : fp4_scheme(block, nested);
}

// A tensor as the golden file records it.
std::string recorded(const std::string& suffix, const Tensor& tensor) {
  if (!suffix.starts_with("quant_state")) return crc(tensor.bytes());
  std::string text = text_of(tensor);
  text.resize(text.find_last_not_of(' ') + 1);
  return text;
}

TEST(Bitsandbytes, MapsAreTheirs) {
  const Json maps = golden().at("maps");
  EXPECT_EQ(crc_of_floats(nf4_scheme(64, false).grid.table), maps.at("nf4").get<std::string>());
  EXPECT_EQ(crc_of_floats(fp4_scheme(64, false).grid.table), maps.at("fp4").get<std::string>());
  EXPECT_EQ(crc_of_floats(dynamic_map()), maps.at("dynamic").get<std::string>());
}

TEST(Bitsandbytes, BytesAreTheirs) {
  const Json file = golden();
  ASSERT_EQ(file.at("results").size(), 92U);
  for (const Json& row : file.at("results")) {
    const Scheme scheme = scheme_of_case(row);
    const std::string name = row.at("source").get<std::string>() + ", " + describe(scheme);
    const Matrix W = weights_of(row.at("source"));
    const RoundedLinear rounded = quantize_to_table(W, scheme, "m");
    int compared = 0;
    for (const auto& [tensor_name, tensor] :
         bitsandbytes().encode(module_of("m", rounded.q, Dtype::kF32), rounded.q)) {
      std::string key = tensor_name == "m.weight" ? "weight" : tensor_name.substr(9);
      if (key.starts_with("quant_state")) key = "quant_state";
      if (!row.contains(key)) continue;
      ++compared;
      EXPECT_EQ(recorded(key, tensor), row.at(key).get<std::string>()) << name << ": " << key;
    }
    EXPECT_EQ(compared, row.at("double").get<bool>() ? 4 : 3);
    const Matrix back = dequantize(rounded.q);
    EXPECT_EQ(crc_of_floats({back.data(), static_cast<size_t>(back.size())}),
              row.at("weights").get<std::string>())
        << name;
  }
}

TEST(Bitsandbytes, LlmInt8BytesAreTheirs) {
  const Json rows = golden().at("int8");
  ASSERT_EQ(rows.size(), 5U);
  for (const Json& row : rows) {
    const Matrix W = weights_of(row.at("source"));
    const QuantizedLinear q = quantize_llm_int8(W, "m").q;
    ASSERT_NO_THROW(check(q, "m"));
    EXPECT_EQ(crc(encoded(bitsandbytes(), q, "m.weight").bytes()),
              row.at("weight").get<std::string>())
        << row.at("source");
    EXPECT_EQ(crc(encoded(bitsandbytes(), q, "m.SCB").bytes()), row.at("SCB").get<std::string>())
        << row.at("source");
  }
}

// ---- files of others ----------------------------------------------------------------------------

// Numbers and arrays of NIBBLE_TEST_DATA/golden/bitsandbytes, little-endian.
class GoldenLayer {
 public:
  explicit GoldenLayer(const std::string& name)
      : bytes_(read_file(test_data() / "golden" / "bitsandbytes" / name)) {}
  template <typename T>
  std::vector<T> next(size_t count) {
    std::vector<T> values(count);
    std::memcpy(values.data(), bytes_.data() + at_, count * sizeof(T));
    at_ += count * sizeof(T);
    return values;
  }
  uint32_t number() { return next<uint32_t>(1)[0]; }

 private:
  std::string bytes_;
  size_t at_ = 0;
};

template <typename T>
Tensor tensor_of(Dtype dtype, Shape shape, const std::vector<T>& values) {
  return Tensor::copy_of(dtype, std::move(shape), std::span<const T>(values));
}

TEST(Bitsandbytes, RealLlmInt8WeightsDecodeBitForBit) {
  NIBBLE_NEEDS_TEST_DATA();
  GoldenLayer blob("llama_1b_int8.bin");
  ASSERT_EQ(blob.number(), 1U);
  const int64_t N = blob.number();
  const int64_t K = blob.number();
  const auto lengths = blob.next<uint32_t>(3);
  std::vector<NamedTensor> tensors;
  tensors.push_back({"m.weight", tensor_of(Dtype::kI8, {N, K}, blob.next<int8_t>(lengths[0]))});
  tensors.push_back({"m.SCB", tensor_of(Dtype::kF32, {N}, blob.next<float>(lengths[1] / 4))});
  tensors.push_back({"m.weight_format", tensor_of(Dtype::kU8, {}, std::vector<uint8_t>{0})});
  const Json config = {{"quant_method", "bitsandbytes"}, {"load_in_8bit", true}};
  const TemporaryFolder folder;
  const Checkpoint checkpoint = written(folder.path() / "model", config, tensors);
  EXPECT_EQ(bitsandbytes().tensors_of(checkpoint, "m").size(), 3U);
  const QuantizedLinear q = bitsandbytes().decode(checkpoint, "m", N, K);
  const auto expected = blob.next<uint16_t>(lengths[2] / 2);
  const Matrix W = dequantize(q);
  ASSERT_EQ(static_cast<size_t>(W.size()), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(float_to_bf16(W.data()[i]), expected[i]) << i;
  }
  Stored again = stored(bitsandbytes(), q);
  EXPECT_EQ(again.config.at("load_in_8bit"), true);
  EXPECT_THAT(again.at("m.weight").bytes(), ::testing::ElementsAreArray(tensors[0].tensor.bytes()));
  EXPECT_THAT(again.at("m.SCB").bytes(), ::testing::ElementsAreArray(tensors[1].tensor.bytes()));
}

// ---- the page, and files that are broken --------------------------------------------------------

TEST(Bitsandbytes, WorkedExample) {
  Matrix W(1, 4);
  W << 0.5F, -1.F, 0.04F, 0.F;
  const QuantizedLinear q = quantize_to_table(W, nf4_scheme(64, false), "layer").q;
  const Tensor words = encoded(bitsandbytes(), q, "m.weight");
  const auto bytes = words.values<uint8_t>();
  EXPECT_EQ(std::vector<uint8_t>(bytes.begin(), bytes.end()), (std::vector<uint8_t>{0xC0, 0x87}));
}

TEST(Bitsandbytes, TheStateIsWrittenAsPythonWritesIt) {
  const QuantizedLinear plain = random_layer(nf4_scheme(64, false), 8, 16, 1);
  EXPECT_EQ(text_of(encoded(bitsandbytes(), plain, "m.weight.quant_state.bitsandbytes__nf4")),
            R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [8, 16]})");
  QuantizedLinear nested = random_layer(fp4_scheme(128, true), 8, 16, 1);
  nested.scale.offset = 0.5F;
  EXPECT_THAT(
      text_of(encoded(bitsandbytes(), nested, "m.weight.quant_state.bitsandbytes__fp4")),
      ::testing::StartsWith(
          R"({"quant_type": "fp4", "blocksize": 128, "dtype": "float16", "shape": [8, 16], )"
          R"("nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5} )"));
}

TEST(Bitsandbytes, EveryOffsetFitsInTheStateAndComesBack) {
  QuantizedLinear q = random_layer(nf4_scheme(64, true), 8, 16, 1);
  for (const float offset : {0.F, 1.F, 0x1.234566p-120F, 3.4028235e38F, 1.17549435e-38F, 0.1F}) {
    q.scale.offset = offset;
    EXPECT_EQ(round_trip(bitsandbytes(), q).scale.offset, offset);
  }
}

// A published Llama's slice: layout in NIBBLE_TEST_DATA's README.
TEST(Bitsandbytes, DecodesParsedFilesOfOthers) {
  NIBBLE_NEEDS_TEST_DATA();
  const auto folder = test_data() / "golden" / "layouts";
  const Checkpoint checkpoint = Checkpoint::open(folder / "bnb_nf4.safetensors");
  bool found = false;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const size_t at = name.find(".weight.quant_state.bitsandbytes__");
    if (at == std::string::npos) continue;
    found = true;
    EXPECT_THAT(bitsandbytes().tensors_of(checkpoint, name.substr(0, at)),
                ::testing::Not(::testing::IsEmpty()));
  }
  EXPECT_TRUE(found);
}

TEST(Bitsandbytes, WiderStorageTypesAreTheSameBytes) {
  const QuantizedLinear q = random_layer(nf4_scheme(64, false), 8, 16, 2);
  Stored s = stored(bitsandbytes(), q);
  const Tensor words = s.at("m.weight");
  const Tensor bytes = Tensor::copy_of(Dtype::kU8, words.shape(), words.values<uint8_t>());
  Tensor wide = Tensor::allocate(Dtype::kBF16, {32, 1});
  std::copy(bytes.bytes().begin(), bytes.bytes().end(), wide.mutable_bytes().begin());
  s.at("m.weight") = wide;
  EXPECT_EQ(decode_error(bitsandbytes(), s.config, s.tensors, 8, 16), "");
}

TEST(Bitsandbytes, BrokenStatesAreNamed) {
  const QuantizedLinear q = random_layer(nf4_scheme(64, true), 8, 16, 3);
  const std::string state = "m.weight.quant_state.bitsandbytes__nf4";
  const std::string good =
      R"({"quant_type": "nf4", "blocksize": 64, "shape": [8, 16], "nested_blocksize": 256, )"
      R"("nested_offset": 0.5})";
  const auto error_of = [&](const std::string& text) {
    Stored s = stored(bitsandbytes(), q);
    s.at(state) = text_tensor(text);
    return decode_error(bitsandbytes(), s.config, s.tensors, 8, 16);
  };
  EXPECT_EQ(error_of(good), "");
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    return text.replace(text.find(from), from.size(), to);
  };
  EXPECT_THAT(error_of("{"), HasSubstr(state));
  EXPECT_THAT(error_of("[]"), HasSubstr("expected a JSON object"));
  EXPECT_THAT(error_of(changed("nf4", "nf5")), HasSubstr("quant_type 'nf5'"));
  EXPECT_THAT(error_of(changed("64", "0")), HasSubstr("blocksize 0"));
  EXPECT_THAT(error_of(changed("64", "-64")), HasSubstr("blocksize -64"));
  EXPECT_THAT(error_of(changed("[8, 16]", "[16, 8]")), HasSubstr("shape [16,8], expected [8,16]"));
  EXPECT_THAT(error_of(changed("256", "0")), HasSubstr("nested_blocksize 0"));
  EXPECT_THAT(error_of(changed("\"nested_offset\": 0.5", "\"x\": 1")), HasSubstr("nested_offset"));
  EXPECT_THAT(error_of(changed("0.5", "\"half\"")), HasSubstr("nested_offset"));
  EXPECT_THAT(error_of(changed("64", "9223372036854775807")),
              HasSubstr("'blocksize' is 9223372036854775807"));
  EXPECT_THAT(error_of(changed("256", "9223372036854775807")),
              HasSubstr("'nested_blocksize' is 9223372036854775807"));
}

TEST(Bitsandbytes, NotANumberInAScaleIsAnError) {
  Stored s = stored(bitsandbytes(), random_layer(nf4_scheme(64, false), 8, 16, 4));
  Tensor scales = Tensor::allocate(Dtype::kF32, {2});
  scales.mutable_values<float>()[1] = std::numeric_limits<float>::quiet_NaN();
  s.at("m.weight.absmax") = scales;
  EXPECT_THAT(decode_error(bitsandbytes(), s.config, s.tensors, 8, 16), HasSubstr("NaN"));
}

TEST(Bitsandbytes, BrokenLlmInt8ModulesAreNamed) {
  const Stored whole = stored(bitsandbytes(), quantize_llm_int8(generated(8, 16), "m").q);
  const auto error_of = [](const Stored& s) {
    return decode_error(bitsandbytes(), s.config, s.tensors, 8, 16);
  };
  EXPECT_EQ(error_of(whole), "");
  Stored tiled = whole;
  tiled.at("m.weight_format") = tensor_of(Dtype::kU8, {}, std::vector<uint8_t>{1});
  EXPECT_THAT(error_of(tiled), HasSubstr("'m.weight_format': format 1"));
  Stored infinite = whole;
  infinite.at("m.SCB") =
      tensor_of(Dtype::kF32, {8}, std::vector<float>(8, std::numeric_limits<float>::infinity()));
  EXPECT_THAT(error_of(infinite), HasSubstr("infinity"));
  Stored fewer = whole;
  fewer.at("m.SCB") = tensor_of(Dtype::kF32, {7}, std::vector<float>(7, 1.F));
  EXPECT_THAT(error_of(fewer), HasSubstr("m.SCB"));
  Stored without = whole;
  without.remove("m.SCB");
  const TemporaryFolder folder;
  const Checkpoint checkpoint = written(folder.path() / "model", without.config, without.tensors);
  EXPECT_THAT([&] { bitsandbytes().tensors_of(checkpoint, "m"); },
              ::testing::ThrowsMessage<Error>(HasSubstr("without 'm.SCB'")));
}

TEST(Bitsandbytes, OneTypeForAModel) {
  const TemporaryFolder folder;
  EXPECT_THROW(written(folder.path() / "model", bitsandbytes(),
                       {{"a", random_layer(nf4_scheme(64, false), 8, 16, 1)},
                        {"b", random_layer(fp4_scheme(64, false), 8, 16, 1)}}),
               Error);
}

}  // namespace
}  // namespace nibble
