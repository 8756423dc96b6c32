#include <cuda_runtime.h>

#include <cassert>
#include <cstddef>
#include <span>
#include <string>

#include "kernels/cuda/device_array.h"
#include "kernels/cuda/launch.h"
#include "src/tensor/error.h"

namespace nibble {

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw Error("cuda", std::string(what) + ": " + cudaGetErrorString(status));
}

DeviceArray::DeviceArray(size_t bytes) : bytes_(bytes) {
  if (bytes > 0) NIBBLE_CHECK_CUDA(cudaMalloc(&data_, bytes));
}

DeviceArray::DeviceArray(std::span<const std::byte> bytes) : DeviceArray(bytes.size()) {
  if (bytes_ > 0)
    NIBBLE_CHECK_CUDA(cudaMemcpy(data_, bytes.data(), bytes_, cudaMemcpyHostToDevice));
}

DeviceArray::~DeviceArray() { cudaFree(data_); }

void DeviceArray::clear() {
  if (bytes_ > 0) NIBBLE_CHECK_CUDA(cudaMemset(data_, 0, bytes_));
}

void DeviceArray::read(std::span<std::byte> out) const {
  assert(out.size() <= bytes_);
  if (out.empty()) return;
  NIBBLE_CHECK_CUDA(cudaMemcpy(out.data(), data_, out.size(), cudaMemcpyDeviceToHost));
}

}  // namespace nibble
