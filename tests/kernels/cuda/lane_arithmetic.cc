// The executor's instructions that are arithmetic of one lane.
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "src/tensor/convert.h"
#include "tests/kernels/cuda/executor.h"

namespace nibble {
namespace {

uint32_t pair(uint16_t low, uint16_t high) { return low | static_cast<uint32_t>(high) << 16; }
uint16_t half(uint32_t pair, int i) { return static_cast<uint16_t>(pair >> 16 * i); }
double f16_half(uint32_t pair, int i) { return f16_to_float(half(pair, i)); }
double bf16_half(uint32_t pair, int i) { return bf16_to_float(half(pair, i)); }

}  // namespace

uint32_t Lane::lop3(int table, uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d = 0;
  for (int i = 0; i < 8; ++i) {
    if ((table >> i & 1) == 0) continue;
    d |= ((i & 4) != 0 ? a : ~a) & ((i & 2) != 0 ? b : ~b) & ((i & 1) != 0 ? c : ~c);
  }
  return d;
}

uint32_t Lane::permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t pool = static_cast<uint64_t>(b) << 32 | a;
  uint32_t d = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t chosen = selector >> 4 * i & 15;
    auto byte = static_cast<uint32_t>(pool >> 8 * (chosen & 7) & 0xff);
    if ((chosen & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
    d |= byte << 8 * i;
  }
  return d;
}

float Lane::fma(float a, float b, float c) { return std::fma(a, b, c); }

// The product is exact in double; the sum is rounded to 24 bits before it is to 11 or 8.
uint32_t Lane::fma2(F16, uint32_t a, uint32_t b, uint32_t c) {
  const auto one = [&](int i) {
    return float_to_f16(static_cast<float>(f16_half(a, i) * f16_half(b, i) + f16_half(c, i)));
  };
  return pair(one(0), one(1));
}
uint32_t Lane::fma2(BF16, uint32_t a, uint32_t b, uint32_t c) {
  const auto one = [&](int i) {
    return float_to_bf16(static_cast<float>(bf16_half(a, i) * bf16_half(b, i) + bf16_half(c, i)));
  };
  return pair(one(0), one(1));
}

float Lane::to_float(F16 value) { return f16_to_float(value.bits); }
float Lane::to_float(BF16 value) { return bf16_to_float(value.bits); }
float Lane::bits_to_float(uint32_t bits) { return std::bit_cast<float>(bits); }
F16 Lane::round(F16, float value) { return {float_to_f16(value)}; }
BF16 Lane::round(BF16, float value) { return {float_to_bf16(value)}; }
uint32_t Lane::round2(F16, float low, float high) {
  return pair(float_to_f16(low), float_to_f16(high));
}
uint32_t Lane::round2(BF16, float low, float high) {
  return pair(float_to_bf16(low), float_to_bf16(high));
}
float Lane::sqrt(float value) { return std::sqrt(value); }
float Lane::exp2(float value) { return std::exp2(value); }
int Lane::round_to_integer(float value) { return static_cast<int>(std::nearbyint(value)); }

}  // namespace nibble
