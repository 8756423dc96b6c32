// bitsandbytes' checkpoints: the page's worked example, real ones of others, broken ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
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
              HasSubstr("blocksize 9223372036854775807"));
  EXPECT_THAT(error_of(changed("256", "9223372036854775807")),
              HasSubstr("nested_blocksize 9223372036854775807"));
}

TEST(Bitsandbytes, NotANumberInAScaleIsAnError) {
  Stored s = stored(bitsandbytes(), random_layer(nf4_scheme(64, false), 8, 16, 4));
  Tensor scales = Tensor::allocate(Dtype::kF32, {2});
  scales.mutable_values<float>()[1] = std::numeric_limits<float>::quiet_NaN();
  s.at("m.weight.absmax") = scales;
  EXPECT_THAT(decode_error(bitsandbytes(), s.config, s.tensors, 8, 16), HasSubstr("NaN"));
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
