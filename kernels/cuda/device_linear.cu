#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/packing/packing.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/device_array.h"
#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/launch.cuh"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

// Oldest architecture with the instructions of ptx.h.
constexpr int kOldestMajor = 8;

template <typename T>
DeviceArray copy_of(const std::vector<T>& values) {
  return DeviceArray(std::as_bytes(std::span(values)));
}

// At least so many bytes; new ones are zero.
void reserve(DeviceArray& memory, int64_t bytes) {
  if (memory.bytes() >= static_cast<size_t>(bytes)) return;
  memory = DeviceArray(static_cast<size_t>(bytes));
  memory.clear();
}

// visit(F16{}) or visit(BF16{}).
template <typename Visit>
void with_float_type(Dtype type, const Visit& visit) {
  if (type == Dtype::kF16) {
    visit(F16{});
  } else if (type == Dtype::kBF16) {
    visit(BF16{});
  } else {
    throw Error("", "activations of " + std::string(dtype_name(type)) + " on the GPU",
                "F16 and BF16 can be");
  }
}

}  // namespace

std::string cuda_refusal() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return std::string("no GPU: ") + cudaGetErrorString(status);
  if (count == 0) return "no GPU";
  int major = 0;
  NIBBLE_CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  if (major < kOldestMajor)
    return "a GPU of compute capability " + std::to_string(major) + ", 8 is needed";
  return {};
}

DeviceLimits device_limits() {
  if (const std::string refusal = cuda_refusal(); !refusal.empty()) throw Error("", refusal);
  int device = 0;
  NIBBLE_CHECK_CUDA(cudaGetDevice(&device));
  DeviceLimits limits;
  const auto read = [&](int& value, cudaDeviceAttr attribute) {
    NIBBLE_CHECK_CUDA(cudaDeviceGetAttribute(&value, attribute, device));
  };
  read(limits.multiprocessors, cudaDevAttrMultiProcessorCount);
  read(limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  read(limits.block_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return limits;
}

Cublas& DenseWorkspace::cublas() {
  if (!cublas_) cublas_.emplace();
  return *cublas_;
}

void* DenseWorkspace::slab(int64_t bytes) {
  if (slab_.bytes() < static_cast<size_t>(bytes)) slab_ = DeviceArray(static_cast<size_t>(bytes));
  return slab_.data();
}

struct DeviceLinear::Memory {
  FragmentLinear shape;  // its arrays are empty
  DeviceLimits limits;
  DeviceArray words, scale, zero, map, second, row_scale, levels;
  DeviceArray partial, counters, tokens, token_scale;
  std::shared_ptr<DenseWorkspace> dense;

  LayerParameters parameters() const {
    LayerParameters p;
    p.kind = shape.scale_kind;
    p.scale = scale.as<void>();
    p.zero = zero.as<int8_t>();
    p.map = map.as<float>();
    p.second = second.as<float>();
    p.offset = shape.offset;
    p.group = static_cast<int>(shape.group);
    p.groups = static_cast<int>(shape.groups);
    p.padded_rows = static_cast<int>(shape.padded_rows);
    return p;
  }

  bool takes_integers() const {
    return shape.kind == FragmentKind::kInteger8 || shape.kind == FragmentKind::kInteger4;
  }

  LinearPlan plan(int64_t M) const {
    return plan_linear({shape.kind, M, shape.N, shape.K, shape.group}, limits);
  }

  // Rows [first, last) of the weights, first a multiple of kPaddedRows.
  void expand(Dtype type, int64_t first, int64_t last, void* out, int64_t out_stride,
              cudaStream_t stream) const {
    with_float_type(type, [&]<typename T>(T) {
      const auto go = [&]<typename Weights>(Weights) {
        using Kernel = Dequantize<Weights, T>;
        typename Kernel::Arguments a;
        a.first_row = static_cast<int>(first);
        a.N = static_cast<int>(last);
        a.K = static_cast<int>(shape.K);
        a.weights = words.as<Words4>();
        a.padded_columns = static_cast<int>(shape.padded_columns);
        a.parameters = parameters();
        a.levels = levels.as<float>();
        a.out = static_cast<T*>(out);
        a.out_stride = out_stride;
        const int64_t tiles = Kernel::tiles(last - first, shape.padded_columns);
        launch<Kernel>(a, divide_up(tiles, Kernel::kWarps), stream);
      };
      switch (shape.kind) {
        case FragmentKind::kInt4:
          return go(Int4Weights{});
        case FragmentKind::kInt8:
          return go(Int8Weights{});
        default:
          return go(TableWeights{});
      }
    });
  }

  // p: with all weights' N; w and its stride are those of the slab.
  void multiply_by_slabs(CublasProduct p, int64_t slab_rows, cudaStream_t stream) {
    if (!dense) dense = std::make_shared<DenseWorkspace>();
    Cublas& cublas = dense->cublas();
    p.w_stride = slab_stride(p.K);
    void* const slab = dense->slab(2 * slab_rows * p.w_stride);
    p.w = slab;
    const auto* bias = static_cast<const uint16_t*>(p.bias);
    auto* y = static_cast<uint16_t*>(p.y);
    for (int64_t first = 0; first < shape.N; first += slab_rows) {
      const int64_t last = std::min(first + slab_rows, shape.N);
      expand(p.type, first, last, slab, p.w_stride, stream);
      p.N = last - first;
      p.bias = bias == nullptr ? nullptr : bias + first;
      p.y = y + first;
      cublas.multiply(p, stream);
    }
  }

  // All but x and the types' own.
  template <typename Arguments>
  Arguments arguments(const LinearPlan& plan, int64_t M) {
    reserve(partial, plan.workspace_bytes);
    reserve(counters, plan.work.tiles * 4);
    Arguments a;
    a.M = static_cast<int>(M);
    a.N = static_cast<int>(shape.N);
    a.K = static_cast<int>(shape.K);
    a.weights = words.as<Words4>();
    a.padded_columns = static_cast<int>(shape.padded_columns);
    a.parameters = parameters();
    a.row_scale = row_scale.as<float>();
    a.work = plan.work;
    a.partial = partial.as<void>();
    a.counters = counters.as<uint32_t>();
    return a;
  }

  // x to 8 bits, into `tokens` and `token_scale`.
  template <typename T>
  int64_t quantize(const T* x, int64_t M, int64_t x_stride, cudaStream_t stream) {
    const int64_t stride = divide_up(shape.K, 16) * 16;
    reserve(tokens, M * stride);
    reserve(token_scale, M * 4);
    typename QuantizeTokens<T>::Arguments a;
    a.M = static_cast<int>(M);
    a.K = static_cast<int>(shape.K);
    a.x = x;
    a.x_stride = x_stride;
    a.q = tokens.as<int8_t>();
    a.q_stride = stride;
    a.scale = token_scale.as<float>();
    launch<QuantizeTokens<T>>(a, M, stream);
    return stride;
  }
};

DeviceLinear::DeviceLinear(const FragmentLinear& layer, std::shared_ptr<DenseWorkspace> workspace)
    : memory_(std::make_unique<Memory>()) {
  Memory& m = *memory_;
  m.dense = std::move(workspace);
  m.limits = device_limits();
  m.words = copy_of(layer.words);
  m.scale = copy_of(layer.scale);
  m.zero = copy_of(layer.zero);
  m.map = copy_of(layer.map);
  m.second = copy_of(layer.second);
  m.row_scale = copy_of(layer.row_scale);
  m.levels = DeviceArray(std::as_bytes(std::span(layer.levels)));
  m.shape.kind = layer.kind;
  m.shape.N = layer.N;
  m.shape.K = layer.K;
  m.shape.padded_rows = layer.padded_rows;
  m.shape.padded_columns = layer.padded_columns;
  m.shape.scale_kind = layer.scale_kind;
  m.shape.offset = layer.offset;
  m.shape.group = layer.group;
  m.shape.groups = layer.groups;
  m.shape.levels = layer.levels;
}

DeviceLinear::DeviceLinear(DeviceLinear&&) noexcept = default;
DeviceLinear& DeviceLinear::operator=(DeviceLinear&&) noexcept = default;
DeviceLinear::~DeviceLinear() = default;

LinearPlan DeviceLinear::plan(int64_t M) const { return memory_->plan(M); }

void DeviceLinear::multiply(Dtype type, const void* x, int64_t M, int64_t x_stride,
                            const void* bias, void* y, void* stream) {
  Memory& m = *memory_;
  const LinearPlan plan = m.plan(M);
  auto* const s = static_cast<cudaStream_t>(stream);
  if (plan.slab_rows > 0) {
    const CublasProduct product = {.type = type,
                                   .M = M,
                                   .N = m.shape.N,
                                   .K = m.shape.K,
                                   .x = x,
                                   .x_stride = x_stride,
                                   .bias = bias,
                                   .y = y,
                                   .y_stride = m.shape.N};
    return m.multiply_by_slabs(product, plan.slab_rows, s);
  }
  with_float_type(type, [&]<typename T>(T) {
    const auto* inputs = static_cast<const T*>(x);
    const auto finish = [&](auto& a) {
      a.bias = static_cast<const T*>(bias);
      a.y = static_cast<T*>(y);
    };
    if (m.takes_integers()) {
      auto a = m.arguments<IntegerArguments<T>>(plan, M);
      a.x_stride = m.quantize(inputs, M, x_stride, s);
      a.x = m.tokens.as<int8_t>();
      a.token_scale = m.token_scale.as<float>();
      finish(a);
      launch_integer(plan.choice, a, s);
      return;
    }
    auto a = m.arguments<LinearArguments<T>>(plan, M);
    a.x = inputs;
    a.x_stride = x_stride;
    finish(a);
    switch (m.shape.kind) {
      case FragmentKind::kInt4:
        return launch_int4(plan.choice, a, s);
      case FragmentKind::kInt8:
        return launch_int8(plan.choice, a, s);
      default:
        a.levels = level_bytes(m.shape.levels, type == Dtype::kBF16);
        return launch_table(plan.choice, a, s);
    }
  });
}

void DeviceLinear::dequantize(Dtype type, void* out, int64_t out_stride, void* stream) const {
  const Memory& m = *memory_;
  if (m.takes_integers())
    throw Error("", "a layer with 8-bit activations has no dense weights here");
  m.expand(type, 0, m.shape.N, out, out_stride, static_cast<cudaStream_t>(stream));
}

}  // namespace nibble
