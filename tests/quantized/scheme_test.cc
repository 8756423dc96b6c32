#include "src/quantized/scheme.h"

#include <gtest/gtest.h>

#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "tests/quantized/layers.h"

namespace nibble {
namespace {

Scheme q4_k() {
  Scheme scheme;
  scheme.blocking = {.rows = 1, .columns = 32};
  const SecondLevel halves = {.type = Dtype::kF16, .block = 8};
  scheme.scale = second_level(parameter(Dtype::kU8, 6), halves);
  scheme.minimum = second_level(parameter(Dtype::kU8, 6), halves);
  return scheme;
}

Scheme nf4(bool double_quantized) {
  Scheme scheme;
  scheme.grid = {.kind = Grid::Kind::kTable, .name = "nf4", .table = nf4_table()};
  scheme.blocking = {.rows = 1, .columns = 64, .flattened = true};
  scheme.scale = parameter(Dtype::kF32, 32);
  if (double_quantized) {
    scheme.scale = second_level(parameter(Dtype::kU8, 8),
                                {.type = Dtype::kF32, .block = 256, .has_offset = true});
  }
  return scheme;
}

Scheme nvfp4() {
  Scheme scheme;
  scheme.grid = {.kind = Grid::Kind::kTable, .name = "e2m1", .table = e2m1_table()};
  scheme.blocking = {.rows = 1, .columns = 16};
  scheme.scale = second_level(parameter(Dtype::kF8E4M3, 8), {.type = Dtype::kF32, .divides = true});
  return scheme;
}

Scheme codebook() {
  Scheme scheme;
  scheme.grid = {.kind = Grid::Kind::kCodebook, .bits = 3};
  return scheme;
}

TEST(Scheme, BitsPerWeightCountEverythingStored) {
  const auto bits = [](const Scheme& scheme) { return bits_per_weight(scheme, 4096, 4096); };
  EXPECT_EQ(bits(integer_scheme(4, 128, true, Dtype::kF16)), 4.125);
  EXPECT_EQ(bits(integer_scheme(4, 128, false, Dtype::kF16)), 4.15625);
  EXPECT_EQ(bits(integer_scheme(8, kAll, true, Dtype::kF32)), 8. + 32. / 4096.);
  EXPECT_EQ(bits(integer_scheme(8, kAll, true, Dtype::kBF16, true)), 8. + 16. / (4096. * 4096.));
  EXPECT_EQ(bits(q4_k()), 4.5);
  EXPECT_EQ(bits(nf4(false)), 4.5);
  // 8 / 64 for the absmax, 32 / (64 * 256) for theirs, and one offset for the tensor.
  EXPECT_EQ(bits(nf4(true)), 4.126953125 + 32. / (4096. * 4096.));
  EXPECT_EQ(bits(nvfp4()), 4.5 + 32. / (4096. * 4096.));
  EXPECT_EQ(bits(codebook()), 3. + 8. * 16. / 4096.);
  EXPECT_EQ(bits_per_weight(codebook(), 4096, 4096, false, Dtype::kF32), 3. + 8. * 32. / 4096.);
}

TEST(Scheme, BitsPerWeightCountRaggedGroupsAndColumnGroups) {
  // 200 columns are 4 groups of 64, the last of 8.
  const Scheme scheme = integer_scheme(4, 64, true, Dtype::kF16);
  EXPECT_EQ(bits_per_weight(scheme, 8, 200), 4. + 4. * 16. / 200.);
  EXPECT_EQ(bits_per_weight(scheme, 8, 200, true), 4. + 4. * 16. / 200. + 32. / 8.);
}

TEST(Scheme, BlocksAreCountedWithRaggedEnds) {
  EXPECT_EQ(group_count({.rows = 1, .columns = 64}, 200), 4);
  EXPECT_EQ(group_count({.rows = 1, .columns = kAll}, 200), 1);
  EXPECT_EQ(block_count({.rows = 1, .columns = 64}, 8, 200), 32);
  EXPECT_EQ(block_count({.rows = kAll, .columns = kAll}, 8, 200), 1);
  EXPECT_EQ(block_count({.rows = 128, .columns = 128}, 300, 200), 6);
  EXPECT_EQ(block_count({.rows = 1, .columns = 64, .flattened = true}, 3, 100), 5);
  EXPECT_EQ(second_count({.block = 256}, 257, 8), 2);
  EXPECT_EQ(second_count({.block = kAll}, 257, 8), 1);
  EXPECT_EQ(second_count({.block = kOneRow}, 256, 8), 8);
}

TEST(Scheme, DescriptionsAreShort) {
  EXPECT_EQ(describe(integer_scheme(4, 128, false, Dtype::kF16)), "int4 g128 asymmetric");
  EXPECT_EQ(describe(integer_scheme(8, kAll, true, Dtype::kF16)), "int8 per channel symmetric");
  EXPECT_EQ(describe(integer_scheme(8, kAll, true, Dtype::kF16, true)),
            "int8 per tensor symmetric");
  EXPECT_EQ(describe(nf4(true)), "nf4 block 64, double-quantized");
  EXPECT_EQ(describe(nf4(false)), "nf4 block 64");
  EXPECT_EQ(describe(q4_k()), "int4 g32 asymmetric, double-quantized");
  EXPECT_EQ(describe(nvfp4()), "e2m1 g16, double-quantized");
  EXPECT_EQ(describe(codebook()), "3-bit codebook per row");
  Scheme fp8;
  fp8.grid.kind = Grid::Kind::kTable;
  fp8.grid.name = "e4m3";
  fp8.blocking = {.rows = 128, .columns = 128};
  fp8.scale = parameter(Dtype::kF32, 32);
  EXPECT_EQ(describe(fp8), "e4m3 block 128x128");
  Scheme w8a8 = integer_scheme(8, kAll, true, Dtype::kF16);
  w8a8.activations = ActivationScheme{};
  EXPECT_EQ(describe(w8a8), "int8 per channel symmetric, int8 dynamic per token activations");
  w8a8.activations = {.symmetric = false, .dynamic = false, .per_token = false};
  EXPECT_EQ(describe(w8a8),
            "int8 per channel symmetric, int8 static per tensor asymmetric activations");
}

TEST(Scheme, IntegerSchemesAreSignedOrHaveAZeroPoint) {
  const Scheme symmetric = integer_scheme(3, 64, true, Dtype::kBF16);
  EXPECT_EQ(symmetric.grid.lowest, -4);
  EXPECT_TRUE(symmetric.symmetric());
  EXPECT_EQ(symmetric.scale->bits, 16);
  const Scheme asymmetric = integer_scheme(3, 64, false, Dtype::kF32);
  EXPECT_EQ(asymmetric.grid.lowest, 0);
  EXPECT_EQ(asymmetric.zero->type, Dtype::kU8);
  EXPECT_EQ(asymmetric.zero->bits, 3);
  EXPECT_FALSE(asymmetric.symmetric());
}

TEST(Scheme, ImpossibleIntegerSchemesAreRefused) {
  EXPECT_THROW(integer_scheme(0, 64, true, Dtype::kF16), Error);
  EXPECT_THROW(integer_scheme(9, 64, true, Dtype::kF16), Error);
  EXPECT_THROW(integer_scheme(4, 0, true, Dtype::kF16), Error);
  EXPECT_THROW(integer_scheme(4, 64, true, Dtype::kF16, true), Error);
  EXPECT_THROW(integer_scheme(4, 64, true, Dtype::kI8), Error);
}

}  // namespace
}  // namespace nibble
