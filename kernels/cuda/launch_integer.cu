#include "kernels/cuda/launch.cuh"

namespace nibble {
namespace {

template <typename T>
void launch_any(const KernelChoice& choice, const IntegerArguments<T>& a, cudaStream_t stream) {
  if (choice.kind == FragmentKind::kInteger8) {
    with_integer_kernel<ByteWeights, T>(choice, launcher(a, stream));
  } else {
    with_integer_kernel<NibbleWeights, T>(choice, launcher(a, stream));
  }
}

}  // namespace

void launch_integer(const KernelChoice& choice, const IntegerArguments<F16>& a,
                    cudaStream_t stream) {
  launch_any(choice, a, stream);
}
void launch_integer(const KernelChoice& choice, const IntegerArguments<BF16>& a,
                    cudaStream_t stream) {
  launch_any(choice, a, stream);
}

}  // namespace nibble
