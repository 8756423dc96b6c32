// The integer products of int8_matmul, one table of functions per instruction set. Private to
// kernels and its tests.
#pragma once

#include <cstdint>
#include <span>

namespace nibble {

inline constexpr int64_t kInt8Panel = 32;  // outputs that are computed together

struct Int8Path {
  const char* name;
  // Bytes of one panel of K inputs, a multiple of 64.
  int64_t (*panel_bytes)(int64_t K);
  // w [rows, K], at most kInt8Panel rows, the others are zero.
  void (*pack_panel)(const int8_t* w, int64_t rows, int64_t K, std::byte* panel);
  // sums [T][kInt8Panel] = x w'. x [T][stride], stride a multiple of 4 and at least K, what lies
  // beyond K is 0; input_sums [T] of the rows of x.
  void (*multiply)(const int8_t* x, int64_t stride, const int32_t* input_sums, int64_t T,
                   const std::byte* panel, int64_t K, int32_t* sums);
};

extern const Int8Path kScalarInt8;
extern const Int8Path kAvx2Int8;
extern const Int8Path kVnniInt8;

// Those that may run here, the fastest last.
std::span<const Int8Path* const> int8_paths();

}  // namespace nibble
