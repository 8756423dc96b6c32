// The instruction-set paths behind matmul, norm, activation, rope, attention and cross_entropy: the
// product of a tile and functions of one row of floats, one table each. Private to kernels/ and its
// tests.
//
// Paths differ in rounding (order of sums, fused multiply-add, exp within 2 ulp) and each is
// deterministic. x, y: n floats, any alignment, no overlap unless the function works in place.
#pragma once

#include <cstdint>

namespace nibble {

// Outputs of a panel: two registers of AVX-512.
inline constexpr int64_t kPanelWidth = 32;

// c = a b (+ c): a [rows, depth], b a panel [depth, kPanelWidth], c [rows, kPanelWidth]. Each
// element is one sum in order of depth, the same for any number of rows.
struct PanelTile {
  const float* a;
  int64_t a_stride;
  const float* b;
  float* c;
  int64_t c_stride;
  int64_t rows;
  int64_t depth;
  bool accumulate;
  const float* next;  // the panel to fetch into the cache meanwhile, as deep as b; may be b
};

struct RowPath {
  const char* name;
  void (*multiply_tile)(const PanelTile& tile);
  float (*sum)(const float* x, int64_t n);
  float (*sum_squares)(const float* x, int64_t n, float center);  // of x - center
  // y = (x - center) * scale * weight + bias; bias may be null. y may be x.
  void (*normalize)(const float* x, int64_t n, float center, float scale, const float* weight,
                    const float* bias, float* y);
  // y = x / (1 + exp(-x)) * factor; factor may be null (1). y may be x or factor.
  void (*silu)(const float* x, const float* factor, int64_t n, float* y);
  // y = x / (1 + exp(-2 u)) * factor, u = sqrt(2/pi) (x + 0.044715 x^3), which is
  // x/2 (1 + tanh u) * factor.
  void (*gelu_tanh)(const float* x, const float* factor, int64_t n, float* y);
  // In place (x[i], x[half + i]) times the rotation (cosine[i], sine[i]).
  void (*rotate)(float* x, const float* cosine, const float* sine, int64_t half);
  float (*max)(const float* x, int64_t n);  // -inf for n = 0
  // In place x = exp(x - shift); returns the sum.
  float (*exp)(float* x, int64_t n, float shift);
  float (*exp_sum)(const float* x, int64_t n, float shift);  // only the sum
  void (*scale)(const float* x, int64_t n, float factor, float* y);
  void (*add)(const float* x, int64_t n, float* y);                       // y += x
  void (*add_scaled)(const float* x, int64_t n, float factor, float* y);  // y += factor x
  float (*dot)(const float* x, const float* y, int64_t n);
};

extern const RowPath kScalarRows;
extern const RowPath kAvx2Rows;
extern const RowPath kAvx512Rows;

// The fastest that may run here.
const RowPath& row_path();

}  // namespace nibble
