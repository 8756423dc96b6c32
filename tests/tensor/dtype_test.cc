#include "src/tensor/dtype.h"

#include <gtest/gtest.h>

#include <string>

namespace nibble {
namespace {

constexpr int kDtypes = static_cast<int>(Dtype::kU64) + 1;

TEST(DtypeTable, EveryNameLeadsBackToItsRow) {
  for (int i = 0; i < kDtypes; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype) << dtype_name(dtype);
    const std::string torch(torch_dtype_name(dtype));
    if (torch.empty()) continue;
    EXPECT_EQ(dtype_from_torch_name(torch), dtype) << torch;
    EXPECT_EQ(dtype_from_torch_name("torch." + torch), dtype) << torch;
  }
}

TEST(DtypeTable, UnknownNamesAreNotFound) {
  for (const char* name : {"", "f16", "F17", "float16"})
    EXPECT_FALSE(dtype_from_name(name)) << name;
  for (const char* name : {"", "torch.", "F16"}) EXPECT_FALSE(dtype_from_torch_name(name)) << name;
}

// The number in each name, where there is one, is its width.
TEST(DtypeTable, WidthsAreThoseOfTheNames) {
  for (int i = 1; i < kDtypes; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    const std::string name(dtype_name(dtype));
    EXPECT_EQ(dtype_bits(dtype), std::stoi(name.substr(name.find_first_of("123456789")))) << name;
  }
  EXPECT_EQ(dtype_bits(Dtype::kBool), 8);
}

}  // namespace
}  // namespace nibble
