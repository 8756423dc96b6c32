// NF4, FP4 and double quantization against bitsandbytes' own bytes (tests/golden/bitsandbytes.json,
// tools/golden/bitsandbytes_reference.py).
#include "src/quantized/normal_float.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using nlohmann::json;

json golden() {
  return json::parse(read_file(own_test_data().parent_path() / "golden" / "bitsandbytes.json"));
}

std::vector<uint8_t> bytes_of(const json& text) {
  const auto digits = text.get<std::string>();
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < digits.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

std::vector<float> floats_of(const json& text) {
  const std::vector<uint8_t> bytes = bytes_of(text);
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// As the generator makes them.
Matrix weights(int64_t N, int64_t K) {
  auto state = static_cast<uint32_t>(N + K);
  Matrix W(N, K);
  for (int64_t i = 0; i < W.size(); ++i) {
    double total = 0;
    for (int j = 0; j < 4; ++j) {
      state = state * 1664525U + 1013904223U;
      total += (state >> 8U) / 8388608. - 1;
    }
    W.data()[i] = static_cast<float>(total * (i % 37 == 0 ? 8 : 1) / 64);
  }
  return W;
}

TEST(NormalFloat, TablesAreThoseOfBitsandbytes) {
  const json file = golden();
  EXPECT_EQ(nf4_scheme(64, false).grid.table, floats_of(file["nf4"]));
  EXPECT_EQ(fp4_scheme(64, false).grid.table, floats_of(file["fp4"]));
  const std::span<const float> map = dynamic_map();
  EXPECT_EQ(std::vector<float>(map.begin(), map.end()), floats_of(file["dynamic_map"]));
}

TEST(NormalFloat, BytesAreThoseOfBitsandbytes) {
  const json file = golden();
  for (const json& row : file["cases"]) {
    const auto N = row["rows"].get<int64_t>();
    const auto K = row["columns"].get<int64_t>();
    const auto block = row["block"].get<int64_t>();
    const bool nested = row["double"].get<bool>();
    const Scheme scheme =
        row["kind"] == "nf4" ? nf4_scheme(block, nested) : fp4_scheme(block, nested);
    const std::string name =
        describe(scheme) + " of " + std::to_string(N) + " x " + std::to_string(K);
    const QuantizedLinear q = quantize_to_table(weights(N, K), scheme, "layer").q;
    ASSERT_NO_THROW(check(q, "layer"));
    const std::vector<uint8_t> packed = bytes_of(row["packed"]);
    const auto codes = q.codes.values<uint8_t>();
    for (size_t i = 0; i < packed.size(); ++i) {
      ASSERT_EQ(codes[2 * i], packed[i] >> 4U) << name << ", weight " << 2 * i;
      if (2 * i + 1 == codes.size()) continue;
      ASSERT_EQ(codes[2 * i + 1], packed[i] & 15U) << name;
    }
    if (!nested) {
      const auto scales = q.scale.values.values<float>();
      EXPECT_EQ(std::vector<float>(scales.begin(), scales.end()), floats_of(row["absmax"])) << name;
      continue;
    }
    // torch adds the scales up in vector lanes: the mean's last bits may differ, and with them
    // every sum of it.
    const auto offset = row["offset"].get<float>();
    EXPECT_NEAR(q.scale.offset, offset, 4 * 0x1p-24 * offset) << name;
    const std::vector<float> second = floats_of(row["nested_absmax"]);
    for (size_t i = 0; i < second.size(); ++i) {
      EXPECT_NEAR(q.scale.second.values<float>()[i], second[i], 8 * 0x1p-24 * offset) << name;
    }
    const std::vector<uint8_t> absmax = bytes_of(row["absmax"]);
    const auto stored = q.scale.values.values<uint8_t>();
    ASSERT_EQ(stored.size(), absmax.size());
    size_t different = 0;
    for (size_t i = 0; i < absmax.size(); ++i) different += stored[i] != absmax[i] ? 1 : 0;
    EXPECT_EQ(different, 0U) << name;
  }
}

TEST(NormalFloat, EffectiveBitsCountEverything) {
  EXPECT_DOUBLE_EQ(bits_per_weight(nf4_scheme(64, false), 1024, 1024), 4.5);
  EXPECT_NEAR(bits_per_weight(nf4_scheme(64, true), 1024, 1024), 4 + 8. / 64 + 32. / 64 / 256,
              1e-4);
}

TEST(NormalFloat, ZerosAndTinyWeightsAndNan) {
  Matrix W = Matrix::Zero(4, 96);
  for (const bool nested : {false, true}) {
    EXPECT_EQ(dequantize(quantize_to_table(W, nf4_scheme(64, nested), "layer").q), W);
  }
  W(1, 3) = 1e-30F;
  EXPECT_NO_THROW(check(quantize_to_table(W, fp4_scheme(64, false), "layer").q, "layer"));
  W(2, 5) = std::numeric_limits<float>::quiet_NaN();
  try {
    quantize_to_table(W, nf4_scheme(64, false), "layer");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("NaN at row 2, column 5"), std::string::npos);
  }
}

}  // namespace
}  // namespace nibble
