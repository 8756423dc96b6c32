// vpmaddwd: products of 16-bit integers, two neighbours added, exact in 32 bits (vpmaddubsw would
// saturate). Panel: int16 [K/2][32][2], inputs k and k + 1 of an output side by side.
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/int8_paths.h"

#define NIBBLE_TARGET __attribute__((target("avx2,fma")))

namespace nibble {
namespace {

constexpr int64_t kTogether = 2;  // inputs of a vpmaddwd
constexpr int kVectors = 4;       // of 8 outputs
constexpr int kRows = 2;          // 8 sums, 4 weights and 2 inputs fit in 16 registers

int64_t steps_of(int64_t K) { return (K + kTogether - 1) / kTogether; }

int64_t panel_bytes(int64_t K) {
  return steps_of(K) * kInt8Panel * kTogether * static_cast<int64_t>(sizeof(int16_t));
}

void pack_panel(const int8_t* w, int64_t rows, int64_t K, std::byte* panel) {
  auto* to = reinterpret_cast<int16_t*>(panel);
  std::fill_n(to, steps_of(K) * kInt8Panel * kTogether, int16_t{0});
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t k = 0; k < K; ++k) {
      to[(k / kTogether * kInt8Panel + n) * kTogether + k % kTogether] = w[n * K + k];
    }
  }
}

// x: pairs of int16, [rows][steps].
template <int kTokens>
NIBBLE_TARGET void multiply_rows(const int32_t* x, int64_t steps, const int16_t* w, int32_t* sums) {
  __m256i sum[kTokens][kVectors];
  for (auto& row : sum) {
    for (__m256i& vector : row) vector = _mm256_setzero_si256();
  }
  for (int64_t step = 0; step < steps; ++step) {
    const auto* weights = reinterpret_cast<const __m256i*>(w + step * kInt8Panel * kTogether);
    for (int r = 0; r < kTokens; ++r) {
      const __m256i pair = _mm256_set1_epi32(x[r * steps + step]);
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] =
            _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(pair, _mm256_loadu_si256(weights + v)));
      }
    }
  }
  for (int r = 0; r < kTokens; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + r * kInt8Panel) + v, sum[r][v]);
    }
  }
}

void multiply(const int8_t* x, int64_t stride, const int32_t* /*input_sums*/, int64_t T,
              const std::byte* panel, int64_t K, int32_t* sums) {
  const int64_t steps = steps_of(K);
  const auto* w = reinterpret_cast<const int16_t*>(panel);
  std::vector<int32_t> pairs(static_cast<size_t>(kRows * steps));
  for (int64_t t = 0; t < T; t += kRows) {
    const int64_t rows = std::min<int64_t>(kRows, T - t);
    for (int64_t r = 0; r < rows; ++r) {
      const int8_t* row = x + (t + r) * stride;
      for (int64_t step = 0; step < steps; ++step) {
        const auto low = static_cast<uint16_t>(int16_t{row[2 * step]});
        const auto high = static_cast<uint16_t>(int16_t{row[2 * step + 1]});
        pairs[static_cast<size_t>(r * steps + step)] =
            static_cast<int32_t>(uint32_t{low} | uint32_t{high} << 16U);
      }
    }
    if (rows == kRows) {
      multiply_rows<kRows>(pairs.data(), steps, w, sums + t * kInt8Panel);
    } else {
      multiply_rows<1>(pairs.data(), steps, w, sums + t * kInt8Panel);
    }
  }
}

}  // namespace

const Int8Path kAvx2Int8 = {
    .name = "avx2", .panel_bytes = panel_bytes, .pack_panel = pack_panel, .multiply = multiply};

}  // namespace nibble
