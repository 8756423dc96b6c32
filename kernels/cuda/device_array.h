// DeviceArray: bytes in a GPU's memory. Without CUDA none can be made.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

namespace nibble {

// Owns them. Copies wait for all work on the device.
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(size_t bytes);
  explicit DeviceArray(std::span<const std::byte> bytes);
  DeviceArray(DeviceArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceArray();

  size_t bytes() const { return bytes_; }
  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

  void clear();  // to zeros
  // The first bytes, as many as `out` has.
  void read(std::span<std::byte> out) const;

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace nibble
