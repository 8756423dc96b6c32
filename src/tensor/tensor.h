// TensorView and Tensor: row-major arrays with a run-time element type. No algebra: maths is done
// on Eigen maps (src/tensor/matrix.h) and in kernels/.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/tensor/dtype.h"

namespace nibble {

enum class Device { kCpu, kCuda };

using Shape = std::vector<int64_t>;

// Product of the dimensions (1 for a scalar). Throws Error when it overflows or a dimension is < 0.
int64_t element_count(const Shape& shape);
// Bytes of that many elements, rounded up to whole bytes. Throws Error on overflow.
int64_t byte_count(Dtype dtype, const Shape& shape);
std::string to_string(const Shape& shape);  // "[2, 3]"

// What a stored tensor is, without its bytes.
struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::kF32;
  Shape shape;
};

// No ownership. The address has the alignment of the element type.
struct TensorView {
  Dtype dtype = Dtype::kF32;
  Shape shape;
  std::span<const std::byte> bytes;
  Device device = Device::kCpu;

  int64_t elements() const { return element_count(shape); }
};

// Shared, immutable once shared: either memory of its own (64-byte aligned) or a part of something
// else (a mapped file) that it keeps alive. Copying a Tensor copies a reference, not the bytes.
class Tensor {
 public:
  Tensor() = default;
  // Zero-filled.
  static Tensor allocate(Dtype dtype, Shape shape);
  // For who writes every byte of it.
  static Tensor uninitialized(Dtype dtype, Shape shape);
  // A view that `owner` keeps valid. Bytes at an address unfit for the dtype are copied.
  static Tensor borrow(TensorView view, std::shared_ptr<const void> owner);
  // A copy of `values`, which must hold exactly the shape's bytes.
  template <typename T>
  static Tensor copy_of(Dtype dtype, Shape shape, std::span<const T> values);

  const TensorView& view() const { return view_; }
  Dtype dtype() const { return view_.dtype; }
  const Shape& shape() const { return view_.shape; }
  std::span<const std::byte> bytes() const { return view_.bytes; }
  int64_t elements() const { return view_.elements(); }
  bool empty() const { return view_.bytes.empty(); }

  // The elements as T, whose size must be that of the dtype (a bug otherwise).
  template <typename T>
  std::span<const T> values() const;
  // Only for tensors made by allocate or copy_of, before they are shared.
  template <typename T>
  std::span<T> mutable_values();
  std::span<std::byte> mutable_bytes();

 private:
  TensorView view_;
  std::shared_ptr<const void> owner_;
  std::byte* own_ = nullptr;
};

void check_element_size(const TensorView& view, size_t element_bytes);
void check_same_bytes(size_t expected, size_t got);

template <typename T>
Tensor Tensor::copy_of(Dtype dtype, Shape shape, std::span<const T> values) {
  Tensor tensor = allocate(dtype, std::move(shape));
  check_same_bytes(tensor.bytes().size(), values.size_bytes());
  const auto source = std::as_bytes(values);
  std::copy(source.begin(), source.end(), tensor.own_);
  return tensor;
}

template <typename T>
std::span<const T> Tensor::values() const {
  check_element_size(view_, sizeof(T));
  return {reinterpret_cast<const T*>(view_.bytes.data()), view_.bytes.size() / sizeof(T)};
}

template <typename T>
std::span<T> Tensor::mutable_values() {
  check_element_size(view_, sizeof(T));
  const std::span<std::byte> bytes = mutable_bytes();
  return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
}

}  // namespace nibble
