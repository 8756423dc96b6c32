// The definitions: one value at a time, in integer arithmetic.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <string>

#include "src/tensor/convert.h"
#include "src/tensor/convert_paths.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

constexpr uint32_t kSign = 0x80000000;
constexpr uint32_t kInfinity = 0x7f800000;
constexpr uint32_t kQuiet = 0x00400000;
constexpr int kFloatBias = 127;
constexpr int kFloatMantissaBits = 23;

// Drops `bits` low bits, to nearest even.
constexpr uint32_t round_shift(uint32_t value, int bits) {
  const uint32_t odd = (value >> bits) & 1;
  return (value + (uint32_t{1} << (bits - 1)) - 1 + odd) >> bits;
}

// |x| with bits `magnitude` (finite) -> exponent and mantissa fields of a type with this mantissa
// and bias, as one integer; the caller handles what is beyond its largest.
constexpr uint32_t narrow(uint32_t magnitude, int mantissa_bits, int bias) {
  const int dropped = kFloatMantissaBits - mantissa_bits;
  const int exponent = static_cast<int>(magnitude >> kFloatMantissaBits) - kFloatBias + bias;
  if (exponent >= 1) {
    const int rebias = bias - kFloatBias;
    return round_shift(magnitude + (static_cast<uint32_t>(rebias) << kFloatMantissaBits), dropped);
  }
  // Subnormal: the implicit one becomes explicit and moves right. A magnitude below half the
  // smallest (also every subnormal float) is zero.
  const int shift = dropped + 1 - exponent;
  if (shift > kFloatMantissaBits + 1) return 0;
  const uint32_t mantissa = (magnitude & ((1U << kFloatMantissaBits) - 1)) | (1U << 23);
  return round_shift(mantissa, shift);
}

// Inverse of narrow, for the types whose exponents all fit in a normal float.
constexpr float widen(uint32_t code, int mantissa_bits, int bias) {
  const uint32_t exponent = code >> mantissa_bits;
  const uint32_t fraction = code & ((1U << mantissa_bits) - 1);
  const int power = static_cast<int>(exponent == 0 ? 1 : exponent) - bias - mantissa_bits;
  const uint32_t integer = exponent == 0 ? fraction : fraction + (1U << mantissa_bits);
  const uint32_t scale = static_cast<uint32_t>(power + kFloatBias) << kFloatMantissaBits;
  return static_cast<float>(integer) * std::bit_cast<float>(scale);
}

constexpr std::array<F8Rule, 4> kF8Rules = {{
    {Dtype::kF8E5M2, 2, 15, 0x7b, 0x7c, 0x7f, false},
    {Dtype::kF8E4M3, 3, 7, 0x7e, 0x7e, 0x7f, false},
    {Dtype::kF8E4M3Fnuz, 3, 8, 0x7f, 0x7f, 0x80, true},
    {Dtype::kF8E5M2Fnuz, 2, 16, 0x7f, 0x7f, 0x80, true},
}};

constexpr float decode_f8(uint8_t bits, const F8Rule& rule) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const uint8_t code = bits & 0x7f;
  if (rule.fnuz && bits == rule.nan) return kNan;
  if (!rule.fnuz && code > rule.overflow) return (bits & 0x80) != 0 ? -kNan : kNan;
  const float magnitude = code > rule.largest ? std::numeric_limits<float>::infinity()
                                              : widen(code, rule.mantissa_bits, rule.bias);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

// The code is float's exponent, but for 0, 2^-127 (subnormal), and 255, NaN: both have the bit
// below.
float decode_e8m0(uint8_t code) {
  const uint32_t below = code == 0 || code == 255 ? kQuiet : 0;
  return std::bit_cast<float>((uint32_t{code} << kFloatMantissaBits) | below);
}

uint8_t encode_f8(float value, const F8Rule& rule) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & ~kSign;
  const uint32_t sign = (bits & kSign) >> 24;
  if (magnitude > kInfinity) return static_cast<uint8_t>(rule.fnuz ? rule.nan : rule.nan | sign);
  uint32_t code = rule.overflow;
  if (magnitude < kInfinity) {
    code = narrow(magnitude, rule.mantissa_bits, rule.bias);
    if (code > rule.largest) code = rule.overflow;
  }
  if (rule.fnuz && code == 0) return 0;
  return static_cast<uint8_t>(code | sign);
}

// Between two powers of two the middle, 1.5 times the lower, goes up: with a significand of one
// bit, that is to even. Among subnormal floats the powers are 2^-127 and 2^-126.
uint8_t encode_e8m0(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & ~kSign) > kInfinity) return 255;
  if ((bits & kSign) != 0) return 0;
  const uint32_t half = bits < 0x00800000 ? 0x00200000 : 0x00400000;
  return static_cast<uint8_t>(std::min<uint32_t>((bits + half) >> kFloatMantissaBits, 254));
}

void all_f16_to_float(const uint16_t* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = f16_to_float(in[i]);
}
void all_bf16_to_float(const uint16_t* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = bf16_to_float(in[i]);
}
void all_f8_to_float(const uint8_t* in, float* out, int64_t n, const F8Rule& rule) {
  for (int64_t i = 0; i < n; ++i) out[i] = decode_f8(in[i], rule);
}
void all_float_to_f16(const float* in, uint16_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = float_to_f16(in[i]);
}
void all_float_to_bf16(const float* in, uint16_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = float_to_bf16(in[i]);
}
void all_float_to_f8(const float* in, uint8_t* out, int64_t n, const F8Rule& rule) {
  for (int64_t i = 0; i < n; ++i) out[i] = encode_f8(in[i], rule);
}
void all_float_to_e8m0(const float* in, uint8_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = encode_e8m0(in[i]);
}

LossCount count_loss(const float* in, int64_t n, LossBounds bounds) {
  LossCount count;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(in[i]) & ~kSign;
    count.flushed += magnitude - 1 < bounds.flush ? 1 : 0;
    count.overflowed += magnitude >= bounds.overflow && magnitude < kInfinity ? 1 : 0;
  }
  return count;
}

}  // namespace

const ConvertPath kScalarConvert = {"scalar",        all_f16_to_float,  all_bf16_to_float,
                                    all_f8_to_float, all_float_to_f16,  all_float_to_bf16,
                                    all_float_to_f8, all_float_to_e8m0, count_loss};

void e8m0_to_float(const uint8_t* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = decode_e8m0(in[i]);
}

const F8Rule& f8_rule(Dtype dtype) {
  for (const F8Rule& rule : kF8Rules) {
    if (rule.dtype == dtype) return rule;
  }
  throw Error("", std::string(dtype_name(dtype)) + " is not an 8-bit float with a mantissa");
}

float f16_to_float(uint16_t bits) {
  const uint32_t sign = (uint32_t{bits} & 0x8000) << 16;
  const uint32_t code = bits & 0x7fff;
  uint32_t magnitude = 0;
  if (code > 0x7c00) {
    magnitude = kInfinity | kQuiet | (code << 13);
  } else if (code == 0x7c00) {
    magnitude = kInfinity;
  } else {
    magnitude = std::bit_cast<uint32_t>(widen(code, 10, 15));
  }
  return std::bit_cast<float>(sign | magnitude);
}

float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

float f8_to_float(uint8_t bits, Dtype dtype) {
  return dtype == Dtype::kF8E8M0 ? decode_e8m0(bits) : decode_f8(bits, f8_rule(dtype));
}

uint16_t float_to_f16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & ~kSign;
  const uint32_t sign = (bits & kSign) >> 16;
  uint32_t code = 0x7c00;
  if (magnitude > kInfinity) {
    code = 0x7e00 | ((magnitude >> 13) & 0x3ff);
  } else if (magnitude < kInfinity) {
    code = std::min<uint32_t>(narrow(magnitude, 10, 15), 0x7c00);
  }
  return static_cast<uint16_t>(sign | code);
}

uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & ~kSign) > kInfinity) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>(round_shift(bits, 16));
}

uint8_t float_to_f8(float value, Dtype dtype) {
  return dtype == Dtype::kF8E8M0 ? encode_e8m0(value) : encode_f8(value, f8_rule(dtype));
}

}  // namespace nibble
