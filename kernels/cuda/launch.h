// Launches of the kernels in this folder, one function for each kind of weights so that they
// compile side by side. Included by CUDA sources only.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "kernels/cuda/arguments.h"
#include "kernels/cuda/choice.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/quantize_tokens.h"
#include "src/tensor/error.h"

namespace nibble {

void check_cuda(cudaError_t status, const char* what);
#define NIBBLE_CHECK_CUDA(call) ::nibble::check_cuda(call, #call)

template <typename T>
using IntegerArguments = LinearArguments<int8_t, T>;

void launch_int4(const KernelChoice& choice, const LinearArguments<F16>& a, cudaStream_t stream);
void launch_int4(const KernelChoice& choice, const LinearArguments<BF16>& a, cudaStream_t stream);
void launch_int8(const KernelChoice& choice, const LinearArguments<F16>& a, cudaStream_t stream);
void launch_int8(const KernelChoice& choice, const LinearArguments<BF16>& a, cudaStream_t stream);
void launch_table(const KernelChoice& choice, const LinearArguments<F16>& a, cudaStream_t stream);
void launch_table(const KernelChoice& choice, const LinearArguments<BF16>& a, cudaStream_t stream);
void launch_integer(const KernelChoice& choice, const IntegerArguments<F16>& a,
                    cudaStream_t stream);
void launch_integer(const KernelChoice& choice, const IntegerArguments<BF16>& a,
                    cudaStream_t stream);

}  // namespace nibble
