// Element types: those of safetensors, under its names.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace nibble {

// In safetensors' order of increasing alignment.
enum class Dtype {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

// The safetensors name: "F16", "F8_E4M3".
std::string_view dtype_name(Dtype dtype);
std::optional<Dtype> dtype_from_name(std::string_view name);

int dtype_bits(Dtype dtype);
// The name that config.json uses ("float16"); empty if it has none.
std::string_view torch_dtype_name(Dtype dtype);
// From "float16" or "torch.float16".
std::optional<Dtype> dtype_from_torch_name(std::string_view name);

// F64, F32, F16, BF16 and the 8-bit floats: what to_float converts.
bool is_float(Dtype dtype);

}  // namespace nibble
