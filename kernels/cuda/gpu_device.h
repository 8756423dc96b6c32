// GpuDevice: a GPU as a forward pass uses it: memory, copies, launches, all on its default stream:
// what any thread asks for happens in the order in which it is asked for. In a build without CUDA
// none can be made.
//
// A forward pass (src/model/device_forward.h) is written over a device, as kernels are over a
// machine (device.h): the other one, in tests, runs them in the block executor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/cuda/device_array.h"
#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/fragment_linear.h"
#include "src/tensor/dtype.h"

namespace nibble {

class GpuDevice {
 public:
  using Array = DeviceArray;
  using Linear = DeviceLinear;

  // Throws Error with cuda_refusal().
  GpuDevice();

  int64_t free_bytes() const;
  Array allocate(int64_t bytes) { return Array(static_cast<size_t>(bytes)); }
  Array copy(std::span<const std::byte> bytes) { return Array(bytes); }
  // After all that was asked for: the first bytes, as many as `out` has.
  void read(const Array& array, std::span<std::byte> out) { array.read(out); }
  Linear make_linear(const FragmentLinear& layer) { return Linear(layer, workspace_); }
  // y [M, N] = x [M, x_stride] W' + bias, as DeviceLinear has it.
  void multiply(Linear& linear, Dtype type, const void* x, int64_t M, int64_t x_stride,
                const void* bias, void* y) {
    linear.multiply(type, x, M, x_stride, bias, y, nullptr);
  }
  // The kernels of gpu_device.inc.
  template <typename Kernel>
  void launch(const typename Kernel::Arguments& arguments, int64_t blocks);

 private:
  std::shared_ptr<DenseWorkspace> workspace_ = std::make_shared<DenseWorkspace>();
};

}  // namespace nibble
