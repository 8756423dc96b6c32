// few_tokens by the block executor against float64.
#include "kernels/cuda/few_tokens.h"

#include <gtest/gtest.h>

#include "kernels/bench/linear_reference.h"
#include "kernels/cuda/weights.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "tests/kernels/cuda/linear_case.h"

namespace nibble {
namespace {

template <typename Weights, int kTokenBlocks, int kScaleTiles>
void check(const LinearCase& c) {
  check_kernel<FewTokens<Weights, F16, kTokenBlocks, kScaleTiles>, F16>(
      c, Arithmetic::kScalesAfterSums);
  check_kernel<FewTokens<Weights, BF16, kTokenBlocks, kScaleTiles>, BF16>(
      c, Arithmetic::kScalesAfterSums);
}

// Ragged in every dimension, more columns than the warps take at once, shared tiles and whole ones.
template <typename Weights, int kScaleTiles>
void check_shapes(const Scheme& scheme) {
  check<Weights, 1, kScaleTiles>({.scheme = scheme, .M = 1, .N = 64, .K = 128});
  check<Weights, 1, kScaleTiles>(
      {.scheme = scheme, .M = 8, .N = 70, .K = 1280, .blocks = 3, .bias = true});
  check<Weights, 1, kScaleTiles>({.scheme = scheme, .M = 3, .N = 130, .K = 328, .blocks = 7});
  check<Weights, 1, kScaleTiles>({.scheme = scheme, .M = 5, .N = 3, .K = 45, .blocks = 1});
  check<Weights, 2, kScaleTiles>({.scheme = scheme, .M = 13, .N = 65, .K = 1100, .blocks = 5});
}

TEST(FewTokens, Int4Groups) {
  for (const bool symmetric : {true, false}) {
    check_shapes<Int4Weights, 4>(integer_scheme(4, 128, symmetric, Dtype::kF16));
    check_shapes<Int4Weights, 4>(integer_scheme(4, kAll, symmetric, Dtype::kBF16));
    check_shapes<Int4Weights, 2>(integer_scheme(4, 64, symmetric, Dtype::kF16));
    check_shapes<Int4Weights, 1>(integer_scheme(4, 32, symmetric, Dtype::kF32));
    check_shapes<Int4Weights, 1>(integer_scheme(4, 96, symmetric, Dtype::kF16));
  }
}

TEST(FewTokens, FewerBits) {
  for (const bool symmetric : {true, false}) {
    check_shapes<Int4Weights, 4>(integer_scheme(3, 128, symmetric, Dtype::kF16));
    check_shapes<Int4Weights, 4>(integer_scheme(2, 256, symmetric, Dtype::kF16));
  }
}

TEST(FewTokens, Int8) {
  for (const bool symmetric : {true, false}) {
    check_shapes<Int8Weights, 2>(integer_scheme(8, 128, symmetric, Dtype::kF16));
    check_shapes<Int8Weights, 2>(integer_scheme(8, kAll, symmetric, Dtype::kF32));
    check_shapes<Int8Weights, 1>(integer_scheme(6, 32, symmetric, Dtype::kBF16));
  }
}

TEST(FewTokens, Tables) {
  for (const bool mapped : {true, false}) {
    check<TableWeights, 1, 2>(
        {.scheme = nf4_scheme(64, mapped), .M = 2, .N = 100, .K = 832, .blocks = 3});
    check<TableWeights, 2, 2>({.scheme = fp4_scheme(64, mapped), .M = 16, .N = 64, .K = 64});
    check<TableWeights, 1, 2>(
        {.scheme = nf4_scheme(256, mapped), .M = 8, .N = 70, .K = 512, .blocks = 4});
  }
}

}  // namespace
}  // namespace nibble
