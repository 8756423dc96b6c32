#include "kernels/cuda/launch.cuh"

namespace nibble {

void launch_table(const KernelChoice& choice, const LinearArguments<F16>& a, cudaStream_t stream) {
  with_float_kernel<TableWeights, F16>(choice, launcher(a, stream));
}
void launch_table(const KernelChoice& choice, const LinearArguments<BF16>& a, cudaStream_t stream) {
  with_float_kernel<TableWeights, BF16>(choice, launcher(a, stream));
}

}  // namespace nibble
