#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/format.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"
#include "tests/formats/layers.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

// (code + lowest - zero) * scale in float, rounded once: from the page, one weight at a time.
float expected_weight(const QuantizedLinear& q, int64_t n, int64_t k) {
  const int64_t group = k / 32;
  const auto at = static_cast<size_t>(n * (q.K / 32) + group);
  const float scale = f16_to_float(q.scale.values.values<uint16_t>()[at]);
  const float zero = q.scheme.zero ? static_cast<float>(q.zero.values.values<uint8_t>()[at]) : 0.f;
  const int code = q.codes.values<uint8_t>()[static_cast<size_t>(n * q.K + k)];
  return (static_cast<float>(code + q.scheme.grid.lowest) - zero) * scale;
}

TEST(Dense, IsOneProductAndOneRounding) {
  for (const bool symmetric : {true, false}) {
    const QuantizedLinear q =
        random_layer(integer_scheme(4, 32, symmetric, Dtype::kF16), 70, 96, 1);
    for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
      for (const bool transposed : {false, true}) {
        FormatModule module = module_of("m", q, dtype);
        module.transposed = transposed;
        const auto tensors = format("dense").encode(module, q);
        ASSERT_EQ(tensors.size(), 1u);
        EXPECT_EQ(tensors[0].name, "m.weight");
        EXPECT_EQ(tensors[0].tensor.shape(), transposed ? (Shape{96, 70}) : (Shape{70, 96}));
        std::vector<float> weights(70 * 96);
        to_float(tensors[0].tensor.view(), weights);
        for (int64_t n = 0; n < q.N; ++n) {
          for (int64_t k = 0; k < q.K; ++k) {
            const auto at = static_cast<size_t>(transposed ? k * q.N + n : n * q.K + k);
            ASSERT_EQ(weights[at], round_to(expected_weight(q, n, k), dtype))
                << dtype_name(dtype) << " at " << n << ", " << k;
          }
        }
      }
    }
  }
}

// formats/dense.md: code 13, zero point 6, scale 0.0147705078125 (F16 0x2390), to BF16.
TEST(Dense, WorkedExample) {
  QuantizedLinear q = random_layer(integer_scheme(4, 32, false, Dtype::kF16), 32, 32, 1);
  q.codes.mutable_values<uint8_t>()[0] = 13;
  q.zero.values.mutable_values<uint8_t>()[0] = 6;
  q.scale.values.mutable_values<uint16_t>()[0] = 0x2390;
  const auto tensors = format("dense").encode(module_of("m", q, Dtype::kBF16), q);
  EXPECT_EQ(f16_to_float(0x2390), 0.0147705078125f);
  EXPECT_EQ(tensors[0].tensor.values<uint16_t>()[0], 0x3DD4);
  EXPECT_EQ(bf16_to_float(0x3DD4), 0.103515625f);
}

TEST(Dense, OverflowIsAnErrorWithRowAndColumn) {
  QuantizedLinear q = random_layer(integer_scheme(8, 32, true, Dtype::kF32), 600, 64, 1);
  const auto scales = q.scale.values.mutable_values<float>();
  q.codes.mutable_values<uint8_t>()[500 * 64 + 40] = 255;
  scales[500 * 2 + 1] = 1000.f;  // 127 * 1000 is more than 65504
  for (int64_t k = 32; k < 40; ++k) q.codes.mutable_values<uint8_t>()[500 * 64 + k] = 128;
  try {
    format("dense").encode(module_of("model.q", q, Dtype::kF16), q);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("model.q: weight 127000"));
    EXPECT_THAT(error.what(), HasSubstr("row 500, column 40 does not fit in F16"));
  }
  EXPECT_NO_THROW(format("dense").encode(module_of("model.q", q, Dtype::kBF16), q));
}

TEST(Dense, NeedsNoConfiguration) {
  EXPECT_TRUE(format("dense").config({}).is_null());
  Scheme scheme = integer_scheme(8, kAll, true, Dtype::kF16);
  scheme.activations.emplace();
  FormatModule module = dense_module("m", 8, 8);
  module.scheme = scheme;
  EXPECT_THAT(format("dense").refusal(module), HasSubstr("activations are quantized"));
}

}  // namespace
}  // namespace nibble
