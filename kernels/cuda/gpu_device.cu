#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/gpu_device.h"
#include "kernels/cuda/launch.cuh"
#include "src/tensor/error.h"

namespace nibble {

GpuDevice::GpuDevice() {
  if (const std::string refusal = cuda_refusal(); !refusal.empty()) throw Error("", refusal);
}

int64_t GpuDevice::free_bytes() const {
  size_t free = 0;
  size_t total = 0;
  NIBBLE_CHECK_CUDA(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

template <typename Kernel>
void GpuDevice::launch(const typename Kernel::Arguments& arguments, int64_t blocks) {
  nibble::launch<Kernel>(arguments, blocks, cudaStream_t{});
}

}  // namespace nibble

#include "kernels/cuda/gpu_device.inc"
