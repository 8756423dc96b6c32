// Runs products of quantized layers on a GPU through DeviceLinear, judges them and times them
// beside cuBLAS: CUDA graphs between events, weights that are in no cache, medians of interleaved
// rounds.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/bench/bench_case.h"
#include "kernels/bench/linear_reference.h"
#include "kernels/cuda/device_array.h"
#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/timing.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {

// A product's inputs and outputs in device memory, F16 or BF16.
class DeviceProduct {
 public:
  DeviceProduct(const LinearInputs& inputs, int64_t N);

  void launch(DeviceLinear& layer, void* stream) const;
  // y [M, N], of which nothing is left from before.
  Matrix run(DeviceLinear& layer);

  const void* x() const { return x_.data(); }
  int64_t x_stride() const { return x_stride_; }
  void* y() const { return y_.data(); }

 private:
  Dtype type_;
  int64_t M_, N_, x_stride_;
  DeviceArray x_, bias_, y_;
};

// How a plan rounds, and what its kernel is called.
Arithmetic arithmetic_of(const LinearPlan& plan);
std::string kernel_name(const LinearPlan& plan);

// Owns cuBLAS, a slab of weights, and what the device reaches.
class DeviceBench {
 public:
  // Throws Error when there is no device. If anything is to be timed, measures what the device
  // reaches, and throws when there is no cuBLAS.
  explicit DeviceBench(bool times);

  const DeviceDescription& device() const { return device_; }
  const Roofs& roofs() const { return roofs_; }
  BenchResult run(const BenchCase& product, const QuantizedLinear& q);

 private:
  Timing time(const BenchCase& product, const FragmentLinear& layer, const DeviceProduct& arrays);

  DeviceDescription device_;
  std::shared_ptr<DenseWorkspace> workspace_ = std::make_shared<DenseWorkspace>();
  Roofs roofs_;
};

}  // namespace nibble
