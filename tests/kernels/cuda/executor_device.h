// ExecutorDevice: a device (kernels/cuda/gpu_device.h) whose memory is the host's and whose
// launches the block executor runs, so that a whole forward pass runs without a GPU by the very
// kernels, with every access watched. Slow: for tiny models.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "kernels/cuda/choice.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/quantize_tokens.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "tests/kernels/cuda/executor.h"
#include "tests/kernels/cuda/linear_case.h"

namespace nibble {

class ExecutorDevice {
 public:
  // Forgets nothing: what it no longer counts can still be read.
  class Array {
   public:
    Array() = default;
    Array(std::byte* data, size_t bytes, std::atomic<int64_t>* used)
        : data_(data), bytes_(bytes), used_(used) {
      *used_ += static_cast<int64_t>(bytes);
    }
    Array(Array&& other) noexcept { swap(other); }
    Array& operator=(Array&& other) noexcept {
      swap(other);
      return *this;
    }
    ~Array() {
      if (used_ != nullptr) *used_ -= static_cast<int64_t>(bytes_);
    }
    size_t bytes() const { return bytes_; }
    template <typename T>
    T* as() const {
      return reinterpret_cast<T*>(data_);
    }

   private:
    void swap(Array& other) noexcept {
      std::swap(data_, other.data_);
      std::swap(bytes_, other.bytes_);
      std::swap(used_, other.used_);
    }
    std::byte* data_ = nullptr;
    size_t bytes_ = 0;
    std::atomic<int64_t>* used_ = nullptr;
  };
  using Linear = FragmentLinear;

  explicit ExecutorDevice(int64_t bytes) : bytes_(bytes) {}

  int64_t free_bytes() const { return bytes_ - used_; }
  Array allocate(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    if (bytes == 0) return {};
    return {memory_.allocate<std::byte>(static_cast<size_t>(bytes), GlobalMemory::Access::kScratch),
            static_cast<size_t>(bytes), &used_};
  }
  Array copy(std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex_);
    if (bytes.empty()) return {};
    return {const_cast<std::byte*>(memory_.input(bytes)), bytes.size(), &used_};
  }
  void read(const Array& array, std::span<std::byte> out) {
    std::memcpy(out.data(), array.as<std::byte>(), out.size());
  }
  Linear make_linear(const FragmentLinear& layer) { return layer; }

  template <typename Kernel>
  void launch(const typename Kernel::Arguments& arguments, int64_t blocks) {
    const std::lock_guard lock(mutex_);
    ++launches_;
    const LaunchSize size{static_cast<int>(blocks), Kernel::kThreads, Kernel::kSharedBytes};
    const std::string problem =
        execute(size, memory_, [&](const Lane& lane) { Kernel::run(lane, arguments); });
    if (!problem.empty()) {
      throw Error("launch " + std::to_string(launches_) + " (" + __PRETTY_FUNCTION__ + ")",
                  problem);
    }
  }

  // Fewer tokens than are for cuBLAS (plan.h).
  void multiply(Linear& linear, Dtype type, const void* x, int64_t M, int64_t x_stride,
                const void* bias, void* y) {
    if (type == Dtype::kF16) return multiply_as<F16>(linear, x, M, x_stride, bias, y);
    multiply_as<BF16>(linear, x, M, x_stride, bias, y);
  }

 private:
  template <typename Arguments>
  void multiply_with(const Linear& linear, Arguments& a, int64_t M, const void* bias, void* y) {
    using T = typename Arguments::Output;
    DeviceLimits limits;
    limits.multiprocessors = 2;
    const LinearPlan plan = plan_linear({linear.kind, M, linear.N, linear.K, linear.group}, limits);
    a.M = static_cast<int>(M);
    a.N = static_cast<int>(linear.N);
    a.K = static_cast<int>(linear.K);
    a.padded_columns = static_cast<int>(linear.padded_columns);
    {
      const std::lock_guard lock(mutex_);
      a.weights = reinterpret_cast<const Words4*>(memory_.input(std::span(linear.words)));
      a.parameters = place_parameters(linear, memory_);
      a.row_scale = memory_.input(std::span(linear.row_scale));
      a.partial = memory_.allocate<std::byte>(static_cast<size_t>(plan.workspace_bytes),
                                              GlobalMemory::Access::kScratch);
      a.counters = memory_.allocate<uint32_t>(static_cast<size_t>(plan.work.tiles),
                                              GlobalMemory::Access::kCounter);
    }
    a.levels = level_bytes(linear.levels, std::is_same_v<T, BF16>);
    a.bias = static_cast<const T*>(bias);
    a.y = static_cast<T*>(y);
    a.work = plan.work;
    with_kernel<T>(plan.choice, [&]<typename Kernel>(std::type_identity<Kernel>) {
      if constexpr (std::is_same_v<typename Kernel::Arguments, Arguments>) {
        launch<Kernel>(a, plan.work.blocks);
      }
    });
  }

  template <typename T>
  void multiply_as(const Linear& linear, const void* x, int64_t M, int64_t x_stride,
                   const void* bias, void* y) {
    if (linear.kind != FragmentKind::kInteger8 && linear.kind != FragmentKind::kInteger4) {
      LinearArguments<T> a;
      a.x = static_cast<const T*>(x);
      a.x_stride = x_stride;
      return multiply_with(linear, a, M, bias, y);
    }
    typename QuantizeTokens<T>::Arguments q;
    q.M = static_cast<int>(M);
    q.K = static_cast<int>(linear.K);
    q.x = static_cast<const T*>(x);
    q.x_stride = x_stride;
    q.q_stride = (linear.K + 15) / 16 * 16;
    const Array tokens = allocate(M * q.q_stride);
    const Array scale = allocate(M * 4);
    q.q = tokens.as<int8_t>();
    q.scale = scale.as<float>();
    launch<QuantizeTokens<T>>(q, M);
    LinearArguments<int8_t, T> a;
    a.x = q.q;
    a.x_stride = q.q_stride;
    a.token_scale = q.scale;
    multiply_with(linear, a, M, bias, y);
  }

  GlobalMemory memory_;
  mutable std::mutex mutex_;
  int64_t bytes_;
  std::atomic<int64_t> used_ = 0;
  int64_t launches_ = 0;
};

}  // namespace nibble
