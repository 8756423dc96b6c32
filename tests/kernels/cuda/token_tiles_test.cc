// TokenTiles by the block executor against float64: 16-bit and 8-bit products.
#include "kernels/cuda/token_tiles.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "formats/packing/packing.h"
#include "kernels/bench/linear_reference.h"
#include "kernels/cuda/arguments.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/float_product.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/integer_product.h"
#include "kernels/cuda/quantize_tokens.h"
#include "kernels/cuda/weights.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/dtype.h"
#include "tests/kernels/cuda/executor.h"
#include "tests/kernels/cuda/linear_case.h"

namespace nibble {
namespace {

template <typename Weights, int kTokens>
void check_tokens(const LinearCase& c) {
  check_kernel<TokenTiles<FloatProduct<Weights, F16>, kTokens>, F16>(
      c, Arithmetic::kScalesIntoWeights);
  check_kernel<TokenTiles<FloatProduct<Weights, BF16>, kTokens>, BF16>(
      c, Arithmetic::kScalesIntoWeights);
}

template <typename Weights>
void check_shapes(const Scheme& scheme) {
  check_tokens<Weights, 16>(
      {.scheme = scheme, .M = 9, .N = 70, .K = 328, .blocks = 4, .bias = true});
  check_tokens<Weights, 32>({.scheme = scheme, .M = 40, .N = 264, .K = 160, .blocks = 5});
  check_tokens<Weights, 48>({.scheme = scheme, .M = 50, .N = 130, .K = 100});
}

TEST(TokenTiles, Int4) {
  for (const bool symmetric : {true, false}) {
    check_shapes<Int4Weights>(integer_scheme(4, 128, symmetric, Dtype::kF16));
    check_shapes<Int4Weights>(integer_scheme(4, 32, symmetric, Dtype::kBF16));
    check_shapes<Int4Weights>(integer_scheme(4, kAll, symmetric, Dtype::kF32));
  }
}

TEST(TokenTiles, Int8) {
  for (const bool symmetric : {true, false}) {
    check_shapes<Int8Weights>(integer_scheme(8, 64, symmetric, Dtype::kF16));
  }
}

TEST(TokenTiles, Tables) {
  for (const bool mapped : {true, false}) {
    const LinearCase c = {
        .scheme = nf4_scheme(64, mapped), .M = 33, .N = 72, .K = 192, .blocks = 2};
    check_tokens<TableWeights, 48>(c);
    check_tokens<TableWeights, 16>(c);
  }
}

// Activations as QuantizeTokens makes them.
template <typename Weights, typename T, int kTokens>
void check_integers(const LinearCase& c) {
  SCOPED_TRACE(c.name());
  using Kernel = TokenTiles<IntegerProduct<Weights, T>, kTokens>;
  constexpr Dtype kType = TypeName<T>::kDtype;
  const QuantizedLinear q = random_layer(c.scheme, c.N, c.K, 5);
  const FragmentLinear w = pack_fragments(q, "test");
  const LinearReference reference = make_reference(c, q, kType, Arithmetic::kIntegers);
  GlobalMemory memory;
  typename QuantizeTokens<T>::Arguments inputs;
  inputs.M = static_cast<int>(c.M);
  inputs.K = static_cast<int>(c.K);
  inputs.x = reinterpret_cast<const T*>(memory.input(std::span<const uint16_t>(reference.x)));
  inputs.x_stride = reference.x_stride;
  inputs.q_stride = divide_up(c.K, 16) * 16;
  inputs.q = memory.allocate<int8_t>(static_cast<size_t>(c.M * inputs.q_stride),
                                     GlobalMemory::Access::kOutput);
  inputs.scale = memory.allocate<float>(static_cast<size_t>(c.M), GlobalMemory::Access::kOutput);
  ASSERT_EQ(
      execute({static_cast<int>(c.M), QuantizeTokens<T>::kThreads, QuantizeTokens<T>::kSharedBytes},
              memory, [&](const Lane& lane) { QuantizeTokens<T>::run(lane, inputs); }),
      "");
  auto a = place_layer<typename Kernel::Arguments>(c, w, memory);
  a.x = inputs.q;
  a.x_stride = inputs.q_stride;
  a.token_scale = inputs.scale;
  a.row_scale = memory.input(std::span<const float>(w.row_scale));
  ASSERT_EQ(run_linear<Kernel>(c, a, memory), "");

  const std::span y(reinterpret_cast<const uint16_t*>(a.y), static_cast<size_t>(c.M * c.N));
  EXPECT_EQ(compare(reference, y, c.N), "");
}

Scheme with_activations(Scheme scheme) {
  scheme.activations = ActivationScheme{};
  return scheme;
}

TEST(TokenTiles, EightBitIntegers) {
  const Scheme scheme = with_activations(integer_scheme(8, kAll, true, Dtype::kF32));
  check_integers<ByteWeights, F16, 8>({.scheme = scheme, .M = 5, .N = 70, .K = 400, .blocks = 3});
  check_integers<ByteWeights, BF16, 16>({.scheme = scheme, .M = 16, .N = 64, .K = 61});
  check_integers<ByteWeights, F16, 48>(
      {.scheme = scheme, .M = 50, .N = 260, .K = 256, .blocks = 4});
}

TEST(TokenTiles, ProgressiveGroups) {
  for (const int64_t group : {int64_t{64}, int64_t{128}, kAll}) {
    const Scheme scheme = with_activations(progressive_scheme(group));
    check_integers<NibbleWeights, F16, 8>(
        {.scheme = scheme, .M = 5, .N = 70, .K = 400, .blocks = 3});
    check_integers<NibbleWeights, BF16, 48>({.scheme = scheme, .M = 49, .N = 64, .K = 130});
  }
}

}  // namespace
}  // namespace nibble
