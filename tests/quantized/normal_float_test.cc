// NF4 and FP4: definitions and extremes. bitsandbytes' own bytes:
// tests/formats/bitsandbytes_test.cc.
#include "src/quantized/normal_float.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

// x with Phi(x) = p, by bisection.
double normal_quantile(double p) {
  double low = -8.;
  double high = 8.;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2.;
    (std::erfc(-middle / std::sqrt(2.)) / 2. < p ? low : high) = middle;
  }
  return low;
}

// Phi^-1 of 8 and 9 points from 1/2 to the authors' outermost quantile, which both halves share.
TEST(NormalFloat, Nf4IsItsFormula) {
  const double largest = 0.9677083;
  const std::vector<float> table = nf4_scheme(64, false).grid.table;
  for (int i = 0; i < 16; ++i) {
    const double p =
        i < 7 ? largest + (0.5 - largest) * i / 7. : 0.5 + (largest - 0.5) * (i - 7) / 8.;
    const double expected = (i < 7 ? -1. : 1.) * normal_quantile(p) / normal_quantile(largest);
    EXPECT_NEAR(table[static_cast<size_t>(i)], expected, 2e-7) << i;
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
