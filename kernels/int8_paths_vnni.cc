// vpdpbusd: four products of an unsigned and a signed byte, added to 32 bits without saturation.
// Weights are stored as w + 128, so that the signed operand is the input, broadcast from memory:
//   sum (w + 128) x = sum w x + 128 sum x
// Panel: uint8 [K/4][32][4], inputs k .. k + 3 of an output side by side.
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/int8_paths.h"

#define NIBBLE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

namespace nibble {
namespace {

constexpr int64_t kTogether = 4;  // inputs of a vpdpbusd
constexpr int kRows = 14;         // whose two registers each, with three more, all fit
constexpr int32_t kOffset = 128;

int64_t steps_of(int64_t K) { return (K + kTogether - 1) / kTogether; }

int64_t panel_bytes(int64_t K) { return steps_of(K) * kInt8Panel * kTogether; }

void pack_panel(const int8_t* w, int64_t rows, int64_t K, std::byte* panel) {
  auto* to = reinterpret_cast<uint8_t*>(panel);
  std::fill_n(to, panel_bytes(K), uint8_t{kOffset});
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t k = 0; k < K; ++k) {
      to[(k / kTogether * kInt8Panel + n) * kTogether + k % kTogether] =
          static_cast<uint8_t>(int32_t{w[n * K + k]} + kOffset);
    }
  }
}

// _mm512_dpbusd_epi32 in place: GCC 12 gives the intrinsic's sums second registers and spills.
NIBBLE_TARGET inline void add_products(__m512i& sum, __m512i w, __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
}

template <int kTokens>
NIBBLE_TARGET void multiply_rows(const int8_t* x, int64_t stride, const int32_t* input_sums,
                                 int64_t steps, const uint8_t* w, int32_t* sums) {
  __m512i low[kTokens];   // outputs 0..15
  __m512i high[kTokens];  // outputs 16..31
#pragma GCC unroll 14
  for (int r = 0; r < kTokens; ++r) low[r] = high[r] = _mm512_setzero_si512();
  for (int64_t step = 0; step < steps; ++step) {
    const __m512i first = _mm512_loadu_si512(w + step * kInt8Panel * kTogether);
    const __m512i second = _mm512_loadu_si512(w + step * kInt8Panel * kTogether + 64);
#pragma GCC unroll 14
    for (int r = 0; r < kTokens; ++r) {
      int32_t four = 0;
      std::memcpy(&four, x + r * stride + step * kTogether, sizeof four);
      const __m512i inputs = _mm512_set1_epi32(four);
      add_products(low[r], first, inputs);
      add_products(high[r], second, inputs);
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < kTokens; ++r) {
    const __m512i offset = _mm512_set1_epi32(kOffset * input_sums[r]);
    _mm512_storeu_si512(sums + r * kInt8Panel, _mm512_sub_epi32(low[r], offset));
    _mm512_storeu_si512(sums + r * kInt8Panel + 16, _mm512_sub_epi32(high[r], offset));
  }
}

template <int kTokens>
NIBBLE_TARGET void multiply_up_to(int64_t rows, const int8_t* x, int64_t stride,
                                  const int32_t* input_sums, int64_t steps, const uint8_t* w,
                                  int32_t* sums) {
  if (rows == kTokens) return multiply_rows<kTokens>(x, stride, input_sums, steps, w, sums);
  if constexpr (kTokens > 1) {
    multiply_up_to<kTokens - 1>(rows, x, stride, input_sums, steps, w, sums);
  }
}

// Rows in blocks of nearly equal height.
void multiply(const int8_t* x, int64_t stride, const int32_t* input_sums, int64_t T,
              const std::byte* panel, int64_t K, int32_t* sums) {
  const int64_t blocks = (T + kRows - 1) / kRows;
  int64_t t = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t rows = T / blocks + (block < T % blocks ? 1 : 0);
    multiply_up_to<kRows>(rows, x + t * stride, stride, input_sums + t, steps_of(K),
                          reinterpret_cast<const uint8_t*>(panel), sums + t * kInt8Panel);
    t += rows;
  }
}

}  // namespace

const Int8Path kVnniInt8 = {
    .name = "vnni", .panel_bytes = panel_bytes, .pack_panel = pack_panel, .multiply = multiply};

}  // namespace nibble
