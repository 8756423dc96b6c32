#include "kernels/cuda/launch.cuh"

namespace nibble {

void launch_int8(const KernelChoice& choice, const LinearArguments<F16>& a, cudaStream_t stream) {
  with_float_kernel<Int8Weights, F16>(choice, launcher(a, stream));
}
void launch_int8(const KernelChoice& choice, const LinearArguments<BF16>& a, cudaStream_t stream) {
  with_float_kernel<Int8Weights, BF16>(choice, launcher(a, stream));
}

}  // namespace nibble
