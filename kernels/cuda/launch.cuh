// From a kernel's type to its launch.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.h"

namespace nibble {

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    run_kernel(const __grid_constant__ typename Kernel::Arguments arguments) {
  Kernel::run(Ptx{}, arguments);
}

template <typename Kernel>
void launch(const typename Kernel::Arguments& arguments, int64_t blocks, cudaStream_t stream) {
  constexpr int kUnasked = 48 << 10;  // a block gets more shared memory only on request
  if constexpr (Kernel::kSharedBytes > kUnasked) {
    NIBBLE_CHECK_CUDA(cudaFuncSetAttribute(
        run_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::kSharedBytes));
  }
  run_kernel<Kernel>
      <<<static_cast<unsigned>(blocks), Kernel::kThreads, Kernel::kSharedBytes, stream>>>(
          arguments);
  NIBBLE_CHECK_CUDA(cudaGetLastError());
}

// The visitor of choice.h that launches.
template <typename Arguments>
auto launcher(const Arguments& a, cudaStream_t stream) {
  return [&a, stream]<typename Kernel>(std::type_identity<Kernel>) {
    launch<Kernel>(a, a.work.blocks, stream);
  };
}

}  // namespace nibble
