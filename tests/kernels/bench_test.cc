// The judge of `nibble bench kernels`: it passes what is right, has teeth, and its cases reach
// every kernel.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/bench/bench_case.h"
#include "kernels/bench/cpu_bench.h"
#include "kernels/bench/device_bench.h"
#include "kernels/bench/linear_reference.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/plan.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

Scheme int8_activations(Scheme scheme) {
  scheme.activations = ActivationScheme{};
  return scheme;
}

TEST(LinearReference, IsTheProductWithTheWeights) {
  const Scheme scheme = integer_scheme(4, 32, false, Dtype::kF16);
  const QuantizedLinear q = random_layer(scheme, 5, 70, 3);
  const LinearInputs inputs = random_inputs(Dtype::kF16, 3, 5, 70, true);
  const Matrix w = dequantize(q);
  for (const Arithmetic arithmetic : {Arithmetic::kFloat, Arithmetic::kScalesAfterSums}) {
    const ExpectedOutputs expected = expected_outputs(inputs, q, arithmetic);
    ASSERT_EQ(expected.outputs.size(), 15U);
    for (const auto& [m, n, y, allowed] : expected.outputs) {
      double sum = inputs.bias[static_cast<size_t>(n)];
      for (int64_t k = 0; k < 70; ++k) sum += static_cast<double>(inputs.x(m, k)) * w(n, k);
      EXPECT_NEAR(y, sum, 1e-5 * std::abs(sum) + 1e-5);
      EXPECT_GT(allowed, 0.);
    }
  }
}

// Weights of a sample's rows must be those of the whole layer.
TEST(LinearReference, SamplesHaveTheCornersAndTheSameValues) {
  for (const Scheme& scheme :
       {integer_scheme(4, 128, true, Dtype::kF16), int8_activations(progressive_scheme(128)),
        int8_activations(integer_scheme(8, kAll, true, Dtype::kF32)),
        int8_activations(integer_scheme(8, kAll, true, Dtype::kF32, true))}) {
    SCOPED_TRACE(describe(scheme));
    constexpr int64_t kM = 40, kN = 1500, kK = 640;
    const QuantizedLinear q = random_layer(scheme, kN, kK, 3);
    const LinearInputs inputs = random_inputs(Dtype::kF16, kM, kN, kK, false);
    const ExpectedOutputs expected = expected_outputs(
        inputs, q, scheme.activations ? Arithmetic::kIntegers : Arithmetic::kScalesAfterSums);
    EXPECT_LT(std::ssize(expected.outputs), kM * kN);
    std::set<std::pair<int64_t, int64_t>> places;
    const Matrix y = quantized_matmul_reference(inputs.x, q);
    for (const auto& output : expected.outputs) {
      places.insert({output.m, output.n});
      const double value = y(output.m, output.n);
      ASSERT_NEAR(output.y, value, 1e-5 * std::abs(value) + 1e-2) << output.m << ", " << output.n;
    }
    EXPECT_EQ(std::ssize(places), std::ssize(expected.outputs));
    for (const int64_t m : {int64_t{0}, kM - 1}) {
      for (const int64_t n : {int64_t{0}, kN - 1}) EXPECT_TRUE(places.contains({m, n}));
    }
  }
}

TEST(Judge, PassesRoundingAndNoMore) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 64, true, Dtype::kF16), 9, 128, 3);
  const LinearInputs inputs = random_inputs(Dtype::kF32, 2, 9, 128, false);
  const ExpectedOutputs expected = expected_outputs(inputs, q, Arithmetic::kFloat);
  Matrix y(2, 9);
  for (const auto& output : expected.outputs) {
    y(output.m, output.n) = static_cast<float>(output.y);
  }
  EXPECT_EQ(judge(expected, y).problem, "");
  EXPECT_LE(judge(expected, y).share_of_allowed, 1.);

  Matrix off = y;
  const ExpectedOutputs::Output& last = expected.outputs.back();
  off(last.m, last.n) = static_cast<float>(last.y + 3 * last.allowed);
  EXPECT_NE(judge(expected, off).problem.find("y[1, 8]"), std::string::npos);
  EXPECT_GT(judge(expected, off).share_of_allowed, 2.);

  // One code of one weight is off by one.
  QuantizedLinear other = q;
  std::vector<uint8_t> codes(q.codes.values<uint8_t>().begin(), q.codes.values<uint8_t>().end());
  codes[4 * 128 + 77] ^= 1;
  other.codes = Tensor::copy_of<uint8_t>(Dtype::kU8, {9, 128}, codes);
  for (const auto& output : expected_outputs(inputs, other, Arithmetic::kFloat).outputs) {
    off(output.m, output.n) = static_cast<float>(output.y);
  }
  EXPECT_NE(judge(expected, off).problem, "");
}

TEST(Judge, NoticesWhatWasNotWritten) {
  ExpectedOutputs expected{2, 2, {{0, 0, 1., 0.1}}};
  Matrix y = Matrix::Constant(2, 2, 1.F);
  EXPECT_EQ(judge(expected, y).problem, "");
  y(1, 1) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(judge(expected, y).problem.find("y[1, 1]"), std::string::npos);
  y(1, 1) = 1.F;
  y(0, 0) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(judge(expected, y).problem.find("y[0, 0]"), std::string::npos);
}

TEST(BenchCases, OfTheCpuPassOnEveryPath) {
  std::set<std::string> kernels;
  for (const BenchCase& product : cpu_cases(true)) {
    if (product.timed || product.M > 30) continue;
    const QuantizedLinear q = random_layer(product.scheme, product.N, product.K, 5);
    ASSERT_EQ(cpu_refusal(q), "") << describe(product.scheme);
    for (const BenchResult& result : CpuBench(false).run(product, q)) {
      EXPECT_EQ(result.judgement.problem, "")
          << result.kernel << ", " << describe(product.scheme) << ", M " << product.M;
      EXPECT_FALSE(result.timing.has_value());
      kernels.insert(result.kernel);
    }
  }
  EXPECT_TRUE(kernels.contains("dequant_matmul scalar"));
  EXPECT_GE(kernels.size(), 2U);
}

TEST(BenchCases, OfADeviceReachEveryKernelOnBothSidesOfEachBorder) {
  std::set<std::pair<FragmentKind, std::string>> kernels;
  for (const BenchCase& product : device_cases(true)) {
    SCOPED_TRACE(describe(product.scheme));
    // The kind and the groups of a small layer are those of a large one.
    const QuantizedLinear q =
        random_layer(product.scheme, 64, std::min<int64_t>(product.K, 832), 5);
    ASSERT_EQ(fragment_refusal(q), "");
    const FragmentLinear w = pack_fragments(q, "test");
    const LinearPlan plan = plan_linear({w.kind, product.M, product.N, product.K, w.group}, {});
    kernels.insert({w.kind, kernel_name(plan)});
    EXPECT_EQ(arithmetic_of(plan) == Arithmetic::kIntegers, product.scheme.activations.has_value());
  }
  for (const FragmentKind kind : {FragmentKind::kInt4, FragmentKind::kInt8, FragmentKind::kTable}) {
    for (const char* name : {"few_tokens 8", "few_tokens 16", "token_tiles 32", "token_tiles 48",
                             "dequantize + cublas"}) {
      EXPECT_TRUE(kernels.contains({kind, name})) << name;
    }
  }
  for (const FragmentKind kind : {FragmentKind::kInteger8, FragmentKind::kInteger4}) {
    for (const char* name :
         {"token_tiles 8", "token_tiles 16", "token_tiles 32", "token_tiles 48"}) {
      EXPECT_TRUE(kernels.contains({kind, name})) << name;
    }
  }
}

TEST(BenchCases, GoalsAreTimed) {
  const auto times = [](int64_t M, int64_t N, int64_t K) {
    return std::ranges::any_of(device_cases(false), [&](const BenchCase& product) {
      return product.timed && product.M == M && product.N == N && product.K == K;
    });
  };
  EXPECT_TRUE(times(1, 28672, 8192) && times(1, 8192, 8192) && times(1, 4096, 4096));
  for (const int64_t M : {16, 32, 64, 128, 1024, 2048}) EXPECT_TRUE(times(M, 8192, 8192)) << M;
}

TEST(Timing, ShareOfRoofIsThatOfTheSlowerBound) {
  const Roofs roofs{.bytes_per_second = 1e9,
                    .operations_per_second = 1e12,
                    .integer_operations_per_second = 2e12};
  Timing timing{.microseconds = 10., .bytes = 5e3, .operations = 2e6};  // 5 us, 2 us
  EXPECT_DOUBLE_EQ(share_of_roof(timing, roofs, false), 0.5);
  timing.operations = 8e6;  // 8 us, 4 us
  EXPECT_DOUBLE_EQ(share_of_roof(timing, roofs, false), 0.8);
  EXPECT_DOUBLE_EQ(share_of_roof(timing, roofs, true), 0.5);
  EXPECT_EQ(median({3., 1., 2.}), 2.);
}

}  // namespace
}  // namespace nibble
