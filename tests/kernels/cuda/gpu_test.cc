// The kernels on a GPU, through DeviceLinear, against float64; skipped where there is none.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/bench/device_bench.h"
#include "kernels/bench/linear_reference.h"
#include "kernels/cuda/device_array.h"
#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/fragment_linear.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"

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
  SCOPED_TRACE(describe(scheme) + " " + std::string(dtype_name(type)) + ", M " + std::to_string(M) +
               " N " + std::to_string(N) + " K " + std::to_string(K));
  const QuantizedLinear q = random_layer(scheme, N, K, 7);
  const LinearInputs inputs = random_inputs(type, M, N, K, true);
  DeviceLinear layer(pack_fragments(q, "test"));
  DeviceProduct product(inputs, N);
  const Matrix y = product.run(layer);
  EXPECT_EQ(judge(expected_outputs(inputs, q, arithmetic_of(layer.plan(M))), y).problem, "");
  EXPECT_EQ(product.run(layer), y);
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

// By slabs and cuBLAS: weights in 16 bits, as the scales in TokenTiles' weights cost at least.
TEST_F(Gpu, ProductsOfManyTokens) {
  for (const Scheme& scheme : schemes()) {
    for (const Dtype type : {Dtype::kF16, Dtype::kBF16}) {
      check_layer(scheme, type, 513, 200, 1152);
      check_layer(scheme, type, 520, 77, 320);
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
