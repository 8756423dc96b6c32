#include "src/quantized/recast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "src/quantized/ggml_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"
#include "tests/quantized/layers.h"

namespace nibble {
namespace {

using testing::HasSubstr;

QuantizedLinear integers(int bits, int64_t group, bool symmetric) {
  return random_layer(integer_scheme(bits, group, symmetric, Dtype::kF16), 24, 128);
}

// Scales of the other type that are numbers in F16 as well.
QuantizedLinear with_scales_in(Dtype type, QuantizedLinear q) {
  std::vector<float> scales(static_cast<size_t>(q.scale.values.elements()));
  to_float(q.scale.values.view(), scales);
  for (float& scale : scales) scale = round_to(scale, Dtype::kBF16);
  q.scale.values = Tensor::allocate(type, {std::ssize(scales)});
  from_float(scales, type, q.scale.values.mutable_bytes());
  q.scheme.scale->type = type;
  q.scheme.scale->bits = dtype_bits(type);
  return q;
}

const Scheme& ggml(const char* name) { return ggml_scheme(name)->scheme; }

void expect_same_weights(const QuantizedLinear& q, const Scheme& target) {
  const Recast result = recast(q, target);
  ASSERT_TRUE(result.q) << describe(q.scheme) << ": " << result.reason;
  EXPECT_EQ(result.q->scheme, target);
  check(*result.q, "recast");
  EXPECT_EQ(dequantize(*result.q), dequantize(q)) << describe(q.scheme);
}

TEST(Recast, GroupsAreCutIntoBlocks) {
  for (const int64_t group : {int64_t{32}, int64_t{64}, int64_t{128}, kAll}) {
    expect_same_weights(integers(4, group, true), ggml("q4_0"));
    expect_same_weights(integers(8, group, true), ggml("q8_0"));
  }
}

// Levels less their zero points: -3 to 3, -7 to 7, -15 to 15.
TEST(Recast, ZeroPointsGoIntoTheCodesOfAWiderGrid) {
  expect_same_weights(integers(2, 64, false), ggml("q4_0"));
  expect_same_weights(integers(3, 64, false), ggml("q4_0"));
  expect_same_weights(integers(4, 64, false), ggml("q5_0"));
  expect_same_weights(integers(3, 64, true), ggml("q4_0"));
}

TEST(Recast, ScaleTypesChangeWhereNothingIsLost) {
  expect_same_weights(with_scales_in(Dtype::kBF16, integers(4, 64, true)), ggml("q4_0"));
  QuantizedLinear q = with_scales_in(Dtype::kF32, integers(4, 64, true));
  expect_same_weights(q, ggml("q4_0"));
  q.scale.values.mutable_values<float>()[3] = 0.1F;
  EXPECT_THAT(recast(q, ggml("q4_0")).reason, HasSubstr("not every scale is a number in F16"));
}

TEST(Recast, ZeroPointsBecomeMinimumsAndBackWhereTheirProductFits) {
  QuantizedLinear q = integers(4, 32, false);
  EXPECT_THAT(recast(q, ggml("q4_1")).reason, HasSubstr("times its scale is no number in F16"));
  for (uint8_t& zero : q.zero.values.mutable_values<uint8_t>()) {
    zero = static_cast<uint8_t>(1U << zero % 4);
  }
  expect_same_weights(q, ggml("q4_1"));
  expect_same_weights(*recast(q, ggml("q4_1")).q, q.scheme);
  EXPECT_EQ(fingerprint(*recast(*recast(q, ggml("q4_1")).q, q.scheme).q), fingerprint(q));
}

TEST(Recast, WhatDoesNotFitSaysWhere) {
  QuantizedLinear q = integers(8, 32, false);
  q.zero.values.mutable_values<uint8_t>()[5] = 255;
  q.codes.mutable_values<uint8_t>()[128 + 33] = 0;
  for (size_t i = 0; i < 128 + 32; ++i) q.codes.mutable_values<uint8_t>()[i] = 128;
  for (size_t b = 0; b < 5; ++b) q.zero.values.mutable_values<uint8_t>()[b] = 100;
  q.codes.mutable_values<uint8_t>()[128 + 32] = 200;
  EXPECT_EQ(recast(q, ggml("q8_0")).reason,
            "row 1, group 1 has the level -255, beyond -128 to 127");
  EXPECT_THAT(recast(integers(4, 16, true), ggml("q4_0")).reason,
              HasSubstr("groups of 16 columns are not made of 32"));
  EXPECT_THAT(recast(integers(4, 32, true), integer_scheme(3, 32, true, Dtype::kF16)).reason,
              HasSubstr("beyond -4 to 3"));
  QuantizedLinear minimums = random_layer(ggml("q4_1"), 24, 128);
  minimums.minimum.values = f16_tensor({24 * 4}, std::vector<float>(24 * 4, 0.1F));
  EXPECT_THAT(recast(minimums, integer_scheme(4, 32, false, Dtype::kF16)).reason,
              HasSubstr("has a minimum that is no multiple of its scale"));
  EXPECT_THAT(recast(random_layer(ggml("iq4_nl"), 24, 128), ggml("q4_0")).reason,
              HasSubstr("its levels are no integers"));
  EXPECT_THAT(recast(random_layer(ggml("q4_k"), 24, 256), ggml("q4_1")).reason,
              HasSubstr("its scales are quantized in turn"));
}

}  // namespace
}  // namespace nibble
