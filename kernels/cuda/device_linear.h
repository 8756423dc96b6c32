// DeviceLinear: a packed layer in a GPU's memory, and products with it. A build without CUDA has
// the same functions, which throw.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/device_array.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/plan.h"
#include "src/tensor/dtype.h"

namespace nibble {

// Empty if there is a GPU that the kernels run on; else why not.
std::string cuda_refusal();
// Of the current device. Throws Error when there is none.
DeviceLimits device_limits();

// What products of many tokens need beside a layer: cuBLAS, which the first of them opens, and room
// for a slab of weights. Layers that run one after another on one stream share one.
class DenseWorkspace {
 public:
  Cublas& cublas();
  void* slab(int64_t bytes);

 private:
  std::optional<Cublas> cublas_;
  DeviceArray slab_;
};

// Owns the device's copy of a FragmentLinear, the scratch memory of one product at a time and the
// device's limits.
class DeviceLinear {
 public:
  // Without a workspace the layer makes its own when it needs one.
  explicit DeviceLinear(const FragmentLinear& layer,
                        std::shared_ptr<DenseWorkspace> workspace = nullptr);
  DeviceLinear(DeviceLinear&&) noexcept;
  DeviceLinear& operator=(DeviceLinear&&) noexcept;
  ~DeviceLinear();

  // y [M, N] = x [M, x_stride] W' + bias [N], all of `type` (F16 or BF16), in device memory; x at
  // multiples of 16 bytes, x_stride a multiple of 8; bias may be nullptr. stream: a cudaStream_t.
  // Layers with 8-bit activations quantize x first. Products of many tokens (plan) need cuBLAS:
  // Error when it is missing. Returns before it is done.
  void multiply(Dtype type, const void* x, int64_t M, int64_t x_stride, const void* bias, void* y,
                void* stream);
  // The weights [N, out_stride], out_stride a multiple of 8, columns from K on left alone. Not for
  // layers with 8-bit activations.
  void dequantize(Dtype type, void* out, int64_t out_stride, void* stream) const;

  // What multiply would launch.
  LinearPlan plan(int64_t M) const;

 private:
  struct Memory;
  std::unique_ptr<Memory> memory_;
};

}  // namespace nibble
