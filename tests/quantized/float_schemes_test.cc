// Rounding to floats, against the definitions; bytes of another program:
// tests/formats/float_formats_test.cc.
#include "src/quantized/float_schemes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "src/quantized/float_inputs.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "tests/quantized/layers.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

Matrix uniform_matrix(int64_t N, int64_t K, uint32_t seed) {
  Sequence numbers(seed);
  Matrix W(N, K);
  for (int64_t i = 0; i < W.size(); ++i) W.data()[i] = numbers.uniform();
  return W;
}

// The code of least distance, the even one of two as near.
int nearest_even(const std::vector<float>& table, float x) {
  int best = 0;
  const int codes = static_cast<int>(table.size());
  for (int code = 0; code < codes; ++code) {
    const auto distance = [&](int c) { return std::fabs(double{x} - double{table[c]}); };
    if (std::isnan(table[code])) continue;
    const bool is_even = (code & 1) == 0;
    if (distance(code) < distance(best) ||
        (distance(code) == distance(best) && is_even && table[code] != table[best])) {
      best = code;
    }
  }
  return best;
}

TEST(FloatSchemes, E2m1TakesTheNearestAndTheEvenOfTwo) {
  const std::vector<float>& table = e2m1_grid().table;
  for (int i = -1000; i <= 1000; ++i) {
    const float x = static_cast<float>(i) / 128.F;
    const float read = table[e2m1_code(x)];
    EXPECT_EQ(read, table[static_cast<size_t>(nearest_even(table, x))]) << x;
    EXPECT_EQ(std::signbit(read), x < 0) << x;
  }
  EXPECT_EQ(e2m1_code(-0.F), 0);
  EXPECT_EQ(e2m1_code(1e30F), 7);
  EXPECT_EQ(e2m1_code(-1e30F), 15);
}

TEST(FloatSchemes, CodesAreTheNearestToTheScaledWeight) {
  const Matrix W = uniform_matrix(40, 96, 5);
  for (const Scheme& scheme :
       {fp8_scheme({}, Dtype::kF16), fp8_scheme({.rows = kAll, .columns = kAll}, Dtype::kBF16),
        fp8_scheme({.rows = 16, .columns = 32}, Dtype::kF32), nvfp4_scheme(true),
        nvfp4_scheme(false), mxfp4_scheme()}) {
    const QuantizedLinear q = quantize_to_floats(W, scheme, 0.F, "m").q;
    ASSERT_NO_THROW(check(q, "m")) << describe(scheme);
    for (int64_t n = 0; n < q.N; ++n) {
      for (int64_t k = 0; k < q.K; ++k) {
        const float scaled = W(n, k) / block_parameters(q, n, k).scale;
        const int expected = nearest_even(scheme.grid.table, scaled);
        ASSERT_EQ(level(q, n, k), scheme.grid.table[static_cast<size_t>(expected)])
            << describe(scheme) << " " << n << " " << k;
      }
    }
  }
}

TEST(FloatSchemes, ScalesAreTheRules) {
  Matrix W = Matrix::Zero(2, 64);
  W(0, 3) = -3.5F;
  W(0, 40) = 1.7F;
  W(1, 0) = 448.F;
  const auto scale = [&](const Scheme& scheme, int64_t n, int64_t k, float shared = 0.F) {
    return block_parameters(quantize_to_floats(W, scheme, shared, "m").q, n, k).scale;
  };
  EXPECT_EQ(scale(fp8_scheme({}, Dtype::kF32), 0, 0), 3.5F / 448.F);
  EXPECT_EQ(scale(fp8_scheme({}, Dtype::kF32), 1, 0), 1.F);
  EXPECT_EQ(scale(mxfp4_scheme(), 0, 0), 1.F);     // 3.5 = 1.75 * 2: the next power of two
  EXPECT_EQ(scale(mxfp4_scheme(), 0, 40), 0.25F);  // 1.7 = 1.7 * 1
  EXPECT_EQ(scale(mxfp4_scheme(), 1, 40), 0x1p-127F);
  const float global = 2688.F * (1.F / 448.F);
  EXPECT_EQ(scale(nvfp4_scheme(true), 0, 0), 3.5F / global);  // 3.5 * 6 / 6 is in E4M3
  EXPECT_EQ(scale(nvfp4_scheme(true), 1, 40), 0.125F / global);
  EXPECT_EQ(scale(nvfp4_scheme(false), 1, 0), 448.F * (448.F / 2688.F));
  EXPECT_EQ(scale(nvfp4_scheme(false), 1, 40), 448.F / 2688.F);
  // Spanning a sibling's 896, the largest local scale is half.
  EXPECT_EQ(scale(nvfp4_scheme(true), 1, 0, 896.F), 224.F / (2688.F * (1.F / 896.F)));
}

TEST(FloatSchemes, ZerosAndTinyRowsKeepWhatTheyCan) {
  Matrix W = Matrix::Zero(2, 16);
  W(1, 0) = 0x1p-20F;  // 2^-20 / 448 is below half of F16's smallest
  const RoundedLinear rounded = quantize_to_floats(W, fp8_scheme({}, Dtype::kF16), 0.F, "m");
  EXPECT_EQ(rounded.rounding.raised_to_smallest, 1);
  EXPECT_EQ(block_parameters(rounded.q, 0, 0).scale, 0x1p-10F);
  EXPECT_EQ(dequantize(rounded.q)(1, 0), 0x1p-20F);
  EXPECT_TRUE((dequantize(rounded.q).row(0).array() == 0.F).all());
}

TEST(FloatSchemes, ErrorsNameThePlace) {
  Matrix W = Matrix::Ones(4, 32);
  const auto error_of = [&](const Scheme& scheme) -> std::string {
    try {
      quantize_to_floats(W, scheme, 0.F, "q_proj");
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  };
  EXPECT_EQ(error_of(mxfp4_scheme()), "");
  EXPECT_THAT(error_of(fp8_scheme({.flattened = true}, Dtype::kF16)), HasSubstr("no rule for"));
  W(2, 5) = 1e9F;
  EXPECT_THAT(error_of(fp8_scheme({}, Dtype::kF16)),
              HasSubstr("q_proj: the scale of row 2, group 0 is infinite in F16"));
  W(2, 5) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(error_of(nvfp4_scheme(true)), HasSubstr("q_proj: NaN at row 2, column 5"));
}

TEST(FloatSchemes, AreKnownWhateverTheirScales) {
  EXPECT_TRUE(is_fp8(fp8_scheme({.rows = 7, .columns = 9}, Dtype::kF8E8M0)));
  EXPECT_TRUE(is_nvfp4(nvfp4_scheme(false)));
  EXPECT_TRUE(is_mxfp4(ggml_scheme("mxfp4")->scheme));
  EXPECT_FALSE(is_mxfp4(nvfp4_scheme(true)));
  EXPECT_FALSE(is_nvfp4(mxfp4_scheme()));
  EXPECT_FALSE(is_fp8(integer_scheme(8, kAll, true, Dtype::kF16)));
  EXPECT_EQ(describe(nvfp4_scheme(true)), "e2m1 g16, double-quantized");
}

// llama.cpp's levels differ in the sign of a zero: the same layer all the same.
TEST(FloatSchemes, EqualTablesMakeEqualFingerprints) {
  const QuantizedLinear ours =
      quantize_to_floats(uniform_matrix(4, 64, 1), mxfp4_scheme(), 0.F, "m").q;
  QuantizedLinear theirs = ours;
  theirs.scheme = ggml_scheme("mxfp4")->scheme;
  EXPECT_EQ(ours.scheme, theirs.scheme);
  EXPECT_EQ(fingerprint(ours), fingerprint(theirs));
}

TEST(FloatInputs, AllOfATensorShareAScaleOrEachTokenHasItsOwn) {
  const Matrix x = uniform_matrix(3, 40, 9) * 5.F;
  const auto seen = [&](float value, float scale) {
    return round_to(value / scale, Dtype::kF8E4M3) * scale;
  };
  const Matrix token = rounded_inputs(x, {.is_float = true}, 1.F);
  const Matrix tensor = rounded_inputs(x, {.per_token = false, .is_float = true}, 1.F);
  const Matrix fixed =
      rounded_inputs(x, {.dynamic = false, .per_token = false, .is_float = true}, 0.001F);
  const Matrix groups = rounded_inputs(x, {.is_float = true, .columns = 16}, 1.F);
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t k = 0; k < 40; ++k) {
      const float of_token = x.row(t).cwiseAbs().maxCoeff() / 448.F;
      const int64_t first = k / 16 * 16;
      const float of_group =
          x.row(t).segment(first, std::min<int64_t>(16, 40 - first)).cwiseAbs().maxCoeff() / 448.F;
      EXPECT_EQ(token(t, k), seen(x(t, k), of_token));
      EXPECT_EQ(tensor(t, k), seen(x(t, k), x.cwiseAbs().maxCoeff() / 448.F));
      EXPECT_EQ(fixed(t, k), seen(x(t, k), 0.001F));  // saturates at 0.448
      EXPECT_EQ(groups(t, k), seen(x(t, k), of_group));
    }
  }
  EXPECT_EQ(fixed.cwiseAbs().maxCoeff(), 448.F * 0.001F);
}

TEST(FloatInputs, ZerosStayZeros) {
  const Matrix x = Matrix::Zero(2, 32);
  for (const ActivationScheme& scheme :
       {ActivationScheme{.is_float = true}, ActivationScheme{.per_token = false, .is_float = true},
        ActivationScheme{.bits = 4, .is_float = true, .columns = 32},
        ActivationScheme{.bits = 4, .dynamic = false, .is_float = true, .columns = 16}}) {
    EXPECT_EQ(rounded_inputs(x, scheme, 1.F), x);
  }
}

}  // namespace
}  // namespace nibble
