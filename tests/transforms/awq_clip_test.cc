// Against tests/golden/transforms.json, made by a NumPy program in float64 that follows the paper,
// and against definitions.
#include "quantizers/transforms/awq_clip.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/solver.h"
#include "quantizers/transforms/scale_group.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "tests/transforms/groups.h"

namespace nibble {
namespace {

TEST(AwqClip, EqualsThePapersSearchInFloat64) {
  const nlohmann::json& file = golden_transforms();
  const Matrix& W = golden_group().layers[1].W;
  ASSERT_EQ(file["clip"].size(), 4U);
  for (const auto& row : file["clip"]) {
    const auto size = row["group"].get<int64_t>();
    const Scheme scheme = golden_scheme(row, size);
    const ClippedWeights clipped = clip_weights(W, golden_group().inputs.H, scheme, "layer");
    const double before = row["before"].get<double>();
    const double after = row["after"].get<double>();
    EXPECT_NEAR(clipped.loss_before, before, 1e-4 * before) << describe(scheme);
    EXPECT_NEAR(clipped.loss_after, after, 1e-4 * after) << describe(scheme);
    const auto steps = row["steps"].get<std::string>();
    const int64_t width = size == -1 ? W.cols() : size;
    const int64_t G = (W.cols() + width - 1) / width;
    ASSERT_EQ(steps.size(), static_cast<size_t>(W.rows() * G));
    int64_t with_less = 0;
    for (int64_t n = 0; n < W.rows(); ++n) {
      for (int64_t k = 0; k < W.cols(); ++k) {
        const int64_t g = k / width;
        const int step = steps[static_cast<size_t>(n * G + g)] - '0';
        const int64_t columns = std::min(width, W.cols() - g * width);
        const float largest = W.row(n).segment(g * width, columns).cwiseAbs().maxCoeff();
        const float limit = (1.F - static_cast<float>(step) / 20.F) * largest;
        ASSERT_EQ(clipped.W(n, k), std::clamp(W(n, k), -limit, limit))
            << describe(scheme) << ", row " << n << ", column " << k << ", step " << step;
        with_less += k % width == 0 && step > 0 ? 1 : 0;
      }
    }
    EXPECT_EQ(clipped.clipped, with_less);
  }
}

TEST(AwqClip, NoGroupGetsWorse) {
  const Scheme scheme = integer_scheme(3, 32, true, Dtype::kF16);
  const ScaleGroup group = random_group({70}, 80, scheme, 1);
  const Matrix& W = group.layers[0].W;
  const Matrix& H = group.inputs.H;
  const ClippedWeights clipped = clip_weights(W, H, scheme, "layer");
  const Matrix plain = dequantize(solve_rtn({.W = W, .scheme = scheme}).q);
  const Matrix shrunk = dequantize(solve_rtn({.W = clipped.W, .scheme = scheme}).q);
  double after = 0;
  for (int64_t n = 0; n < W.rows(); ++n) {
    for (int64_t k = 0; k < 80; k += 32) {
      const int64_t columns = std::min<int64_t>(32, 80 - k);
      const auto loss = [&](const Matrix& V) {
        return exact_loss(W.block(n, k, 1, columns), V.block(n, k, 1, columns),
                          H.block(k, k, columns, columns));
      };
      EXPECT_LE(loss(shrunk), loss(plain) * (1. + 1e-5));
      after += loss(shrunk);
    }
  }
  EXPECT_GT(clipped.clipped, 0);
  EXPECT_LT(clipped.loss_after, 0.95 * clipped.loss_before);
  EXPECT_NEAR(clipped.loss_after, after, 1e-5 * after);
}

TEST(AwqClip, WhatIsNotByRowComesBackAsItIs) {
  const Scheme scheme = integer_scheme(4, kAll, true, Dtype::kF16, true);
  const ScaleGroup group = random_group({8}, 32, scheme, 2);
  const ClippedWeights clipped = clip_weights(group.layers[0].W, group.inputs.H, scheme, "layer");
  EXPECT_EQ(clipped.W, group.layers[0].W);
  EXPECT_EQ(clipped.clipped, 0);
}

TEST(AwqClip, ZerosAndDeadInputsAreNotClipped) {
  const Scheme scheme = integer_scheme(2, 32, false, Dtype::kF16);
  ScaleGroup group = random_group({8}, 64, scheme, 3);
  Matrix& W = group.layers[0].W;
  W.leftCols(32).setZero();
  group.inputs.H.rightCols(32).setZero();
  group.inputs.H.bottomRows(32).setZero();
  const ClippedWeights clipped = clip_weights(W, group.inputs.H, scheme, "layer");
  EXPECT_EQ(clipped.W, W);
  EXPECT_EQ(clipped.clipped, 0);
  W(3, 40) = std::numeric_limits<float>::infinity();
  EXPECT_THROW(clip_weights(W, group.inputs.H, scheme, "layer"), Error);
}

TEST(AwqClip, SameBytesWithOneThreadAndWithTwo) {
  const Scheme scheme = integer_scheme(3, 64, false, Dtype::kF16);
  const ScaleGroup group = random_group({300}, 128, scheme, 4);
  const int threads = omp_get_max_threads();
  ClippedWeights clipped[2];
  for (int run = 0; run < 2; ++run) {
    omp_set_num_threads(run + 1);
    clipped[run] = clip_weights(group.layers[0].W, group.inputs.H, scheme, "layer");
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(clipped[0].W, clipped[1].W);
  EXPECT_EQ(clipped[0].loss_after, clipped[1].loss_after);
}

}  // namespace
}  // namespace nibble
