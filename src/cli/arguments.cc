#include "src/cli/arguments.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

struct NamedType {
  std::string_view name;
  Dtype dtype;
};

template <size_t kCount>
Dtype find_type(const std::array<NamedType, kCount>& types, const std::string& text,
                const std::string& option) {
  std::string known;
  for (const NamedType& type : types) {
    if (text == type.name || text == torch_dtype_name(type.dtype)) return type.dtype;
    known += (known.empty() ? "" : ", ") + std::string(type.name);
  }
  throw Error(option, "unknown type '" + text + "'", "known: " + known);
}

// The number at the start of `text` and what follows it.
std::pair<double, std::string_view> leading_number(std::string_view text,
                                                   const std::string& option) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !std::isfinite(value)) {
    throw Error(option, "'" + std::string(text) + "' does not start with a number");
  }
  return {value, text.substr(static_cast<size_t>(end - text.data()))};
}

}  // namespace

int64_t parse_size(const std::string& text, const std::string& option) {
  const auto [value, unit] = leading_number(text, option);
  constexpr std::string_view kPrefixes = "KMGT";
  double factor = 1;
  if (!unit.empty()) {
    const size_t power = kPrefixes.find(unit[0]);
    const std::string_view rest = unit.substr(1);
    const bool known = power != std::string_view::npos &&
                       (rest.empty() || rest == "B" || rest == "i" || rest == "iB");
    if (!known) {
      throw Error(option, "'" + text + "' is no size", "examples: 5G, 512M, 4Gi, 1000");
    }
    const double base = rest.starts_with("i") ? 1024 : 1000;
    factor = std::pow(base, static_cast<double>(power + 1));
  }
  const double bytes = value * factor;
  if (bytes < 1 || bytes > 9e18) throw Error(option, "'" + text + "' is out of range");
  return static_cast<int64_t>(bytes);
}

double parse_fraction(const std::string& text, const std::string& option) {
  const auto [value, unit] = leading_number(text, option);
  if (unit == "%") return value / 100;
  if (unit.empty()) return value;
  throw Error(option, "'" + text + "' is neither a number nor a percentage");
}

Dtype parse_float_type(const std::string& text, const std::string& option) {
  static constexpr std::array<NamedType, 3> kTypes = {
      {{"f16", Dtype::kF16}, {"bf16", Dtype::kBF16}, {"f32", Dtype::kF32}}};
  return find_type(kTypes, text, option);
}

Dtype parse_integer_type(const std::string& text, const std::string& option) {
  static constexpr std::array<NamedType, 8> kTypes = {{{"u8", Dtype::kU8},
                                                       {"i8", Dtype::kI8},
                                                       {"u16", Dtype::kU16},
                                                       {"i16", Dtype::kI16},
                                                       {"u32", Dtype::kU32},
                                                       {"i32", Dtype::kI32},
                                                       {"u64", Dtype::kU64},
                                                       {"i64", Dtype::kI64}}};
  return find_type(kTypes, text, option);
}

int parse_weight_bits(const std::string& text, const std::string& option) {
  if (text.size() == 2 && text[0] == 'w' && text[1] >= '2' && text[1] <= '8') return text[1] - '0';
  throw Error(option, "unknown type '" + text + "'", "known: w2 to w8");
}

}  // namespace nibble
