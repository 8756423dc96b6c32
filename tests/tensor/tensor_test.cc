#include "src/tensor/tensor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

TEST(Tensor, OfItsOwnIsAlignedAndZero) {
  const Tensor tensor = Tensor::allocate(Dtype::kF32, {3, 5});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes().data()) % 64, 0U);
  EXPECT_EQ(tensor.elements(), 15);
  for (const float value : tensor.values<float>()) EXPECT_EQ(value, 0);
}

TEST(Tensor, OfNoElementsHasNoBytes) {
  EXPECT_TRUE(Tensor::allocate(Dtype::kF32, {3, 0}).empty());
  EXPECT_EQ(Tensor::allocate(Dtype::kF32, {}).bytes().size(), 4U);
}

TEST(Tensor, CopyOfKeepsTheValues) {
  const std::vector<int32_t> values = {1, 2, 3, 4};
  const Tensor tensor = Tensor::copy_of<int32_t>(Dtype::kI32, {2, 2}, values);
  EXPECT_TRUE(std::equal(values.begin(), values.end(), tensor.values<int32_t>().begin()));
}

TEST(Tensor, BorrowedKeepsItsOwner) {
  auto owner = std::make_shared<std::vector<float>>(4, 1.0F);
  const std::weak_ptr<std::vector<float>> watch = owner;
  Tensor tensor = Tensor::borrow({Dtype::kF32, {4}, std::as_bytes(std::span(*owner))}, owner);
  EXPECT_EQ(tensor.bytes().data(), reinterpret_cast<const std::byte*>(owner->data()));
  owner.reset();
  EXPECT_FALSE(watch.expired());
  tensor = Tensor();
  EXPECT_TRUE(watch.expired());
}

TEST(Tensor, BorrowedFromAnOddAddressIsCopied) {
  alignas(8) const std::byte bytes[9] = {};
  const Tensor tensor = Tensor::borrow({Dtype::kF32, {2}, std::span(bytes).subspan(1)}, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes().data()) % 4, 0U);
  EXPECT_EQ(tensor.bytes().size(), 8U);
}

TEST(Shape, SizesThatOverflowAreRefused) {
  EXPECT_THROW(element_count({INT64_MAX, 2}), Error);
  EXPECT_THROW(element_count({-1}), Error);
  EXPECT_THROW(byte_count(Dtype::kF32, {INT64_MAX / 8}), Error);
  EXPECT_EQ(byte_count(Dtype::kF4, {3}), 2);
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(to_string(Shape{2, 3}), "[2, 3]");
}

}  // namespace
}  // namespace nibble
