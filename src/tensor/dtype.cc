#include "src/tensor/dtype.h"

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

namespace nibble {
namespace {

struct DtypeRow {
  Dtype dtype;
  std::string_view name;
  int bits;
  std::string_view torch_name;
  bool is_float;
};

constexpr std::array<DtypeRow, 22> kRows = {{
    {Dtype::kBool, "BOOL", 8, "bool", false},
    {Dtype::kF4, "F4", 4, "", false},
    {Dtype::kF6E2M3, "F6_E2M3", 6, "", false},
    {Dtype::kF6E3M2, "F6_E3M2", 6, "", false},
    {Dtype::kU8, "U8", 8, "uint8", false},
    {Dtype::kI8, "I8", 8, "int8", false},
    {Dtype::kF8E5M2, "F8_E5M2", 8, "float8_e5m2", true},
    {Dtype::kF8E4M3, "F8_E4M3", 8, "float8_e4m3fn", true},
    {Dtype::kF8E8M0, "F8_E8M0", 8, "float8_e8m0fnu", true},
    {Dtype::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8, "float8_e4m3fnuz", true},
    {Dtype::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8, "float8_e5m2fnuz", true},
    {Dtype::kI16, "I16", 16, "int16", false},
    {Dtype::kU16, "U16", 16, "uint16", false},
    {Dtype::kF16, "F16", 16, "float16", true},
    {Dtype::kBF16, "BF16", 16, "bfloat16", true},
    {Dtype::kI32, "I32", 32, "int32", false},
    {Dtype::kU32, "U32", 32, "uint32", false},
    {Dtype::kF32, "F32", 32, "float32", true},
    {Dtype::kC64, "C64", 64, "complex64", false},
    {Dtype::kF64, "F64", 64, "float64", true},
    {Dtype::kI64, "I64", 64, "int64", false},
    {Dtype::kU64, "U64", 64, "uint64", false},
}};

constexpr bool rows_are_in_enum_order() {
  for (size_t i = 0; i < kRows.size(); ++i) {
    if (static_cast<size_t>(kRows[i].dtype) != i) return false;
  }
  return true;
}
static_assert(rows_are_in_enum_order());

const DtypeRow& row(Dtype dtype) { return kRows[static_cast<size_t>(dtype)]; }

}  // namespace

std::string_view dtype_name(Dtype dtype) { return row(dtype).name; }
int dtype_bits(Dtype dtype) { return row(dtype).bits; }
std::string_view torch_dtype_name(Dtype dtype) { return row(dtype).torch_name; }
bool is_float(Dtype dtype) { return row(dtype).is_float; }

std::optional<Dtype> dtype_from_name(std::string_view name) {
  for (const DtypeRow& r : kRows) {
    if (r.name == name) return r.dtype;
  }
  return std::nullopt;
}

std::optional<Dtype> dtype_from_torch_name(std::string_view name) {
  constexpr std::string_view kPrefix = "torch.";
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  for (const DtypeRow& r : kRows) {
    if (!r.torch_name.empty() && r.torch_name == name) return r.dtype;
  }
  return std::nullopt;
}

}  // namespace nibble
