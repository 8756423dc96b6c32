// Floating-point codes of 8 and 4 bits (OCP 8-bit floating point v1.0: E4M3; OCP Microscaling v1.0,
// 2023: E2M1 and MXFP4; NVIDIA's NVFP4): schemes, and rounding to nearest with the scales that
// compressed-tensors computes. Files: formats/compressed_tensors.md, formats/fp8.md,
// formats/modelopt.md; activations: src/quantized/float_inputs.h.
//
//   FP8     s = absmax / 448 of a row, of 128 x 128 weights or of the tensor, as the model's type
//   NVFP4   g = 2688 * (1 / absmax) of the tensor, F32; local = E4M3(g * (absmax / 6)) of 16
//   weights;
//           s = local / g. ModelOpt: h = absmax / 2688, E4M3(absmax / (6 * h)), s = local * h
//   MXFP4   s = 2^(e - 2) of 32 weights, 2^e <= absmax < 2^(e + 1), or one more from 1.75 * 2^e on
//   code = nearest to w / s, ties to even, saturating; all in float, one rounding each
// A block of zeros: s is the epsilon of its type, e - 2 = -127; local is 1/8
// (ModelOpt: 1) wherever it would be 0.
// Differs: compressed-tensors computes in the type of the model, so that with BF16 w / s is rounded
// to BF16 before it is rounded to E4M3: 3 % of such codes are the other neighbour of a near tie.
// An F16 scale that would be zero is the smallest positive value here, the epsilon there.
#pragma once

#include <cstdint>
#include <string>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"

namespace nibble {

inline constexpr int64_t kFp8Block = 128;   // rows and columns of "fine-grained" FP8
inline constexpr int64_t kNvfp4Group = 16;  // columns
inline constexpr int64_t kMxfp4Group = 32;
inline constexpr float kLargestE4m3 = 448.F;
inline constexpr float kLargestE2m1 = 6.F;
// NVFP4: the scale of a group of zeros, instead of 0, as compressed-tensors has it.
inline constexpr float kZeroLocal = 0.125F;

// In the order of the bits: 256 levels with NaN at 0x7F and 0xFF; 16 levels, code 8 is -0.
const Grid& e4m3_grid();
const Grid& e2m1_grid();

// scale: its type, F16, BF16, F32, or F8_E8M0.
Scheme fp8_scheme(const Blocking& blocking, Dtype scale);
// divides: as compressed-tensors stores the second level, g; else as ModelOpt does, 1 / g.
Scheme nvfp4_scheme(bool divides);
// The scheme with the second level of NVFP4, of activations too, stored so; others as they are.
Scheme with_nvfp4_stored(Scheme scheme, bool divides);
Scheme mxfp4_scheme();

// Whatever the blocking, the type of scales and the activations.
bool is_fp8(const Scheme& scheme);
// Either direction of the second level.
bool is_nvfp4(const Scheme& scheme);
// Also llama.cpp's type (src/quantized/ggml_schemes.h): its levels are equal.
bool is_mxfp4(const Scheme& scheme);

// Rounds W [N, K] to one of these schemes. shared_largest: see LinearProblem. Throws
// Error(where, ...) for another scheme, for NaN or infinity, and for a scale infinite in its type.
RoundedLinear quantize_to_floats(ConstMatrixRef W, const Scheme& scheme, float shared_largest,
                                 const std::string& where);

// The code of E2M1 nearest to x, ties to even, beyond 6 saturating; only x < 0 gets a sign.
uint8_t e2m1_code(float x);
// The E8M0 byte of MXFP4's scale for weights or activations of this magnitude.
uint8_t mxfp4_exponent(float largest);

}  // namespace nibble
