// Conversion between float and the stored float types, exact and vectorised: round to nearest even,
// subnormals kept, NaN stays NaN. The 8-bit types saturate as their specification says (OCP 8-bit
// floating point v1.0; FNUZ as in ONNX): see each function.
#pragma once

#include <cstdint>
#include <span>

#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"

namespace nibble {

// One value, the definition: what the array versions are tested against.
float f16_to_float(uint16_t bits);
float bf16_to_float(uint16_t bits);
float f8_to_float(uint8_t bits, Dtype dtype);  // any of the five 8-bit float types
uint16_t float_to_f16(float value);            // beyond 65504 (after rounding): infinity
uint16_t float_to_bf16(float value);
// Beyond the largest finite value (after rounding): that value with the sign, where the type has
// no infinity (E4M3, FNUZ), infinity in E5M2. E8M0 rounds to the nearest power of two; zero and
// negative values become its smallest, 2^-127.
uint8_t float_to_f8(float value, Dtype dtype);

// source: any float dtype -> out [elements]. Throws Error for a type that is not a float.
void to_float(const TensorView& source, std::span<float> out);

// What rounding did to values that were finite and not zero.
struct RoundingLoss {
  int64_t overflowed = 0;       // became infinite or saturated
  int64_t first_overflow = -1;  // index of the first such element
  int64_t flushed = 0;          // became zero
};

// values -> out (bytes of `dtype`, a float type, exactly as many elements).
RoundingLoss from_float(std::span<const float> values, Dtype dtype, std::span<std::byte> out);

// The value as it reads back after being stored as `dtype`.
float round_to(float value, Dtype dtype);
// Smallest positive and largest finite value of a float type.
float smallest_positive(Dtype dtype);
float largest_finite(Dtype dtype);

}  // namespace nibble
