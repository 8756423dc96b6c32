// The instruction-set paths behind src/tensor/convert.h, one table of functions each. Private: only
// convert*.cc and the test that compares the paths include it.
//
// All paths give the same bits, NaN payloads included.
#pragma once

#include <cstdint>
#include <span>

#include "src/tensor/dtype.h"

namespace nibble {

// An 8-bit type with sign, exponent and mantissa. Codes are without the sign bit.
struct F8Rule {
  Dtype dtype;
  int mantissa_bits;
  int bias;
  uint8_t largest;   // the largest finite value
  uint8_t overflow;  // what values beyond it become
  uint8_t nan;       // with its sign bit
  bool fnuz;         // NaN has no sign and there is no negative zero
};

// For F8_E5M2, F8_E4M3 and their FNUZ forms; not for F8_E8M0, which has no sign and no mantissa.
const F8Rule& f8_rule(Dtype dtype);

// Where finite floats stop being representable, as the bits of |x| (ordered like |x|): codes
// 1..flush become zero, codes overflow..0x7f7fffff become infinite or saturate.
struct LossBounds {
  uint32_t flush;
  uint32_t overflow;
};

struct LossCount {
  int64_t flushed = 0;
  int64_t overflowed = 0;
};

// All arrays hold n elements, with the alignment of their type.
struct ConvertPath {
  const char* name;
  void (*f16_to_float)(const uint16_t* in, float* out, int64_t n);
  void (*bf16_to_float)(const uint16_t* in, float* out, int64_t n);
  void (*f8_to_float)(const uint8_t* in, float* out, int64_t n, const F8Rule& rule);
  void (*float_to_f16)(const float* in, uint16_t* out, int64_t n);
  void (*float_to_bf16)(const float* in, uint16_t* out, int64_t n);
  void (*float_to_f8)(const float* in, uint8_t* out, int64_t n, const F8Rule& rule);
  void (*float_to_e8m0)(const float* in, uint8_t* out, int64_t n);
  LossCount (*count_loss)(const float* in, int64_t n, LossBounds bounds);
};

// The same on every path: scales are few, and the compiler makes vectors of it.
void e8m0_to_float(const uint8_t* in, float* out, int64_t n);

extern const ConvertPath kScalarConvert;
extern const ConvertPath kAvx2Convert;
extern const ConvertPath kAvx512Convert;

// Those that may run here, the fastest last.
std::span<const ConvertPath* const> convert_paths();

}  // namespace nibble
