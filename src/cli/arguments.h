// Values as typed on the command line.
#pragma once

#include <cstdint>
#include <string>

#include "src/tensor/dtype.h"

namespace nibble {

// "5G", "512M", "64K", "1000": decimal; with an "i" ("4Gi") powers of 1024. Throws Error naming the
// option.
int64_t parse_size(const std::string& text, const std::string& option);
// "2%" or "0.02" -> 0.02.
double parse_fraction(const std::string& text, const std::string& option);
// f16, bf16, f32.
Dtype parse_float_type(const std::string& text, const std::string& option);
// u8, u16, i16, u32, i32, u64, i64 (also "uint16" and so on).
Dtype parse_integer_type(const std::string& text, const std::string& option);
// w2 .. w8 -> 2 .. 8.
int parse_weight_bits(const std::string& text, const std::string& option);

}  // namespace nibble
