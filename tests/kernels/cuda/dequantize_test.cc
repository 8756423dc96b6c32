// Dequantize by the block executor: the weights of dequantize(), rounded to 16 bits, bit for bit.
#include "kernels/cuda/dequantize.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "formats/packing/packing.h"
#include "kernels/bench/linear_reference.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/weights.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "tests/kernels/cuda/executor.h"
#include "tests/kernels/cuda/linear_case.h"

namespace nibble {
namespace {

// Rows from `first` on.
template <typename Weights, typename T>
void check_bits(const Scheme& scheme, int64_t N, int64_t K, int64_t first = 0) {
  SCOPED_TRACE(describe(scheme) + " " + std::to_string(K));
  using Kernel = Dequantize<Weights, T>;
  const QuantizedLinear q = random_layer(scheme, N, K, 3);
  const FragmentLinear w = pack_fragments(q, "test");
  GlobalMemory memory;
  typename Kernel::Arguments a;
  a.first_row = static_cast<int>(first);
  a.N = static_cast<int>(N);
  a.K = static_cast<int>(K);
  a.weights = reinterpret_cast<const Words4*>(memory.input(std::span<const uint32_t>(w.words)));
  a.padded_columns = static_cast<int>(w.padded_columns);
  a.parameters = place_parameters(w, memory);
  a.levels = memory.input(std::span<const float>(w.levels));
  a.out_stride = divide_up(K, 8) * 8;
  a.out = memory.allocate<T>(static_cast<size_t>((N - first) * a.out_stride),
                             GlobalMemory::Access::kScratch);
  const int64_t blocks = divide_up(Kernel::tiles(N - first, w.padded_columns), Kernel::kWarps);
  ASSERT_EQ(execute({static_cast<int>(blocks), Kernel::kThreads, Kernel::kSharedBytes}, memory,
                    [&](const Lane& lane) { Kernel::run(lane, a); }),
            "");
  const Matrix expected = dequantize(q);
  for (int64_t n = first; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) {
      const uint16_t bits = TypeName<T>::kDtype == Dtype::kF16 ? float_to_f16(expected(n, k))
                                                               : float_to_bf16(expected(n, k));
      ASSERT_EQ(a.out[(n - first) * a.out_stride + k].bits, bits) << n << ", " << k;
    }
  }
}

template <typename Weights>
void check_both(const Scheme& scheme) {
  check_bits<Weights, F16>(scheme, 70, 320);
  check_bits<Weights, BF16>(scheme, 64, 64);
  check_bits<Weights, F16>(scheme, 200, 192, 128);
}

TEST(Dequantize, AllWeights) {
  for (const bool symmetric : {true, false}) {
    check_both<Int4Weights>(integer_scheme(4, 32, symmetric, Dtype::kF16));
    check_both<Int8Weights>(integer_scheme(8, kAll, symmetric, Dtype::kF32));
    check_both<TableWeights>(nf4_scheme(64, symmetric));
  }
  check_bits<Int4Weights, F16>(integer_scheme(3, 128, false, Dtype::kBF16), 5, 45);
}

}  // namespace
}  // namespace nibble
