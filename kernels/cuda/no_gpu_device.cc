// GpuDevice in a build without CUDA: none is ever made.
#include <cstdint>

#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/gpu_device.h"
#include "src/tensor/error.h"

namespace nibble {

GpuDevice::GpuDevice() { throw Error("", cuda_refusal(), "build with -DNIBBLE_CUDA=ON"); }
int64_t GpuDevice::free_bytes() const { return 0; }
template <typename Kernel>
void GpuDevice::launch(const typename Kernel::Arguments& /*arguments*/, int64_t /*blocks*/) {}

}  // namespace nibble

#include "kernels/cuda/gpu_device.inc"
