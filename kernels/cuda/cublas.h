// Cublas: products of dense matrices on a GPU, by cuBLASLt. The library is opened at run time
// (kernels/cuda/shared_library.h): products of packed weights with few tokens need none. A build
// without CUDA has the same functions, which throw.
#pragma once

#include <cstdint>
#include <memory>

#include "src/tensor/dtype.h"

namespace nibble {

// y = x W' + bias, all in device memory.
struct CublasProduct {
  Dtype type = Dtype::kF16;  // F16 or BF16, sums in float; I8, sums in I32, which y is then
  int64_t M = 0, N = 0, K = 0;
  const void* x = nullptr;  // [M, x_stride], the first K of each
  int64_t x_stride = 0;
  const void* w = nullptr;  // [N, w_stride], the first K of each
  int64_t w_stride = 0;
  const void* bias = nullptr;  // [N] of `type`, or nullptr, as for I8
  void* y = nullptr;           // [M, y_stride], the first N of each
  int64_t y_stride = 0;
};

// Owns the open library, its handle and scratch memory of one product at a time, and remembers the
// algorithms it was given for every kind of product.
class Cublas {
 public:
  // Throws Error that says what to install when the library is missing.
  Cublas();
  Cublas(Cublas&&) noexcept;
  Cublas& operator=(Cublas&&) noexcept;
  ~Cublas();

  // How many ways the library proposes, at least 1, what it thinks fastest first.
  int algorithms(const CublasProduct& product);
  // stream: a cudaStream_t. Returns before it is done.
  void multiply(const CublasProduct& product, void* stream, int algorithm = 0);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nibble
