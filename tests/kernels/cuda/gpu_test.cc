// The kernels on a GPU, through DeviceLinear, against float64; skipped where there is none.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/packing/packing.h"
#include "kernels/cuda/choice.h"
#include "kernels/cuda/device_array.h"
#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/fragment_linear.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "tests/kernels/cuda/linear_case.h"

namespace nibble {
namespace {

class Gpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string refusal = cuda_refusal(); !refusal.empty()) GTEST_SKIP() << refusal;
  }
};

std::vector<Scheme> schemes() {
  std::vector<Scheme> result = {nf4_scheme(64, true), nf4_scheme(64, false), fp4_scheme(64, true)};
  for (const bool symmetric : {true, false}) {
    for (const int64_t group : {int64_t{32}, int64_t{64}, int64_t{128}, kAll}) {
      result.push_back(integer_scheme(4, group, symmetric, Dtype::kF16));
      result.push_back(integer_scheme(8, group, symmetric, Dtype::kBF16));
    }
  }
  return result;
}

void check_layer(const Scheme& scheme, Dtype type, int64_t M, int64_t N, int64_t K) {
  const LinearCase c = {.scheme = scheme, .M = M, .N = N, .K = K, .bias = true};
  SCOPED_TRACE(c.name() + " " + std::string(dtype_name(type)));
  const QuantizedLinear q = random_layer(scheme, N, K, 7);
  DeviceLinear layer(pack_fragments(q, "test"));
  const auto scales = M <= kMostFewTokens ? ScalesGo::kAfterSums : ScalesGo::kIntoWeights;
  const LinearReference reference = make_reference(c, q, type, scales);
  const DeviceArray x(std::as_bytes(std::span(reference.x)));
  const DeviceArray bias(std::as_bytes(std::span(reference.bias)));
  const DeviceArray y(static_cast<size_t>(M * N * 2));
  std::vector<uint16_t> first(static_cast<size_t>(M * N)), again(first.size());
  layer.multiply(type, x.data(), M, reference.x_stride, bias.data(), y.data(), nullptr);
  y.read(std::as_writable_bytes(std::span(first)));
  EXPECT_EQ(compare(reference, first, N), "");
  layer.multiply(type, x.data(), M, reference.x_stride, bias.data(), y.data(), nullptr);
  y.read(std::as_writable_bytes(std::span(again)));
  EXPECT_EQ(first, again);
}

TEST_F(Gpu, Products) {
  for (const Scheme& scheme : schemes()) {
    for (const Dtype type : {Dtype::kF16, Dtype::kBF16}) {
      check_layer(scheme, type, 1, 4096, 1024);
      check_layer(scheme, type, 13, 200, 1152);
      check_layer(scheme, type, 100, 1000, 512);
    }
  }
}

TEST_F(Gpu, Dequantize) {
  constexpr int64_t kN = 200, kK = 1152;
  for (const Scheme& scheme : schemes()) {
    SCOPED_TRACE(describe(scheme));
    const QuantizedLinear q = random_layer(scheme, kN, kK, 3);
    const DeviceLinear layer(pack_fragments(q, "test"));
    const DeviceArray out(static_cast<size_t>(kN * kK * 2));
    layer.dequantize(Dtype::kF16, out.data(), kK, nullptr);
    std::vector<uint16_t> got(static_cast<size_t>(kN * kK));
    out.read(std::as_writable_bytes(std::span(got)));
    const Matrix expected = dequantize(q);
    for (int64_t i = 0; i < kN * kK; ++i) {
      ASSERT_EQ(got[static_cast<size_t>(i)], float_to_f16(expected.data()[i])) << i;
    }
  }
}

}  // namespace
}  // namespace nibble
