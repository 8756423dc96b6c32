#include "src/tensor/tensor.h"

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>

#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and an AVX-512 vector

}  // namespace

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t dimension : shape) {
    if (dimension < 0 || __builtin_mul_overflow(count, dimension, &count)) {
      throw Error("", "shape " + to_string(shape) + " is not a size that fits in 63 bits");
    }
  }
  return count;
}

int64_t byte_count(Dtype dtype, const Shape& shape) {
  int64_t bits = 0;
  if (__builtin_mul_overflow(element_count(shape), int64_t{dtype_bits(dtype)}, &bits) ||
      bits > INT64_MAX - 7) {
    throw Error("", "shape " + to_string(shape) + " is not a size that fits in 63 bits");
  }
  return (bits + 7) / 8;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

Tensor Tensor::allocate(Dtype dtype, Shape shape) {
  Tensor tensor = uninitialized(dtype, std::move(shape));
  std::ranges::fill(tensor.mutable_bytes(), std::byte{0});
  return tensor;
}

Tensor Tensor::uninitialized(Dtype dtype, Shape shape) {
  const auto bytes = static_cast<size_t>(byte_count(dtype, shape));
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  auto* memory =
      static_cast<std::byte*>(std::aligned_alloc(kAlignment, std::max(rounded, kAlignment)));
  if (memory == nullptr) throw std::bad_alloc();
  Tensor tensor;
  tensor.owner_ =
      std::shared_ptr<const void>(memory, [](const void* p) { std::free(const_cast<void*>(p)); });
  tensor.own_ = memory;
  tensor.view_ = {dtype, std::move(shape), {memory, bytes}, Device::kCpu};
  return tensor;
}

Tensor Tensor::borrow(TensorView view, std::shared_ptr<const void> owner) {
  const auto address = reinterpret_cast<uintptr_t>(view.bytes.data());
  const auto element_bytes = static_cast<uintptr_t>(std::max(1, dtype_bits(view.dtype) / 8));
  if (address % element_bytes != 0) return copy_of(view.dtype, view.shape, view.bytes);
  Tensor tensor;
  tensor.view_ = std::move(view);
  tensor.owner_ = std::move(owner);
  return tensor;
}

std::span<std::byte> Tensor::mutable_bytes() {
  assert(own_ != nullptr && "only a tensor's own memory may be changed");
  return {own_, view_.bytes.size()};
}

void check_element_size([[maybe_unused]] const TensorView& view,
                        [[maybe_unused]] size_t element_bytes) {
  assert(static_cast<size_t>(dtype_bits(view.dtype)) == element_bytes * 8);
}

void check_same_bytes([[maybe_unused]] size_t expected, [[maybe_unused]] size_t got) {
  assert(expected == got);
}

}  // namespace nibble
