#include "kernels/bench/device_bench.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/packing/packing.h"
#include "kernels/bench/bench_case.h"
#include "kernels/bench/linear_reference.h"
#include "kernels/cuda/choice.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/device_array.h"
#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/timing.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int kDeviceRounds = 11;
constexpr int kFewestCalls = 4;  // in a graph
constexpr int kMostCalls = 64;
constexpr int kColdCaches = 4;        // weights in turn are so many times the cache
constexpr int64_t kProbeSize = 8192;  // of the square products that measure the roofs
constexpr size_t kProbeBytes = size_t{1} << 29;

bool is_integer(FragmentKind kind) {
  return kind == FragmentKind::kInteger8 || kind == FragmentKind::kInteger4;
}

DeviceArray device_copy(std::span<const uint16_t> values) {
  return DeviceArray(std::as_bytes(values));
}

uint16_t bits_of(float value, Dtype type) {
  return type == Dtype::kF16 ? float_to_f16(value) : float_to_bf16(value);
}

// Random bytes, none of which is a NaN of `type`: 16-bit floats of normal distribution, integers of
// every value. A period of 2^20 elements.
DeviceArray random_array(Dtype type, int64_t elements) {
  constexpr size_t kPeriod = size_t{1} << 20;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<std::byte> period(kPeriod * (type == Dtype::kI8 ? 1 : 2));
  if (type == Dtype::kI8) {
    for (std::byte& value : period) value = static_cast<std::byte>(random());
  } else {
    const std::span halves(reinterpret_cast<uint16_t*>(period.data()), kPeriod);
    for (uint16_t& half : halves) half = bits_of(normal(random), type);
  }
  std::vector<std::byte> bytes(static_cast<size_t>(elements) * (type == Dtype::kI8 ? 1 : 2));
  for (size_t i = 0; i < bytes.size(); i += period.size()) {
    std::copy_n(period.begin(), std::min(period.size(), bytes.size() - i), bytes.begin() + i);
  }
  return DeviceArray(std::span<const std::byte>(bytes));
}

// Calls in a graph, each with weights of its own: more than the cache holds.
int calls_for(int64_t weight_bytes, int64_t cache_bytes) {
  const int64_t calls = divide_up(kColdCaches * cache_bytes, weight_bytes);
  return static_cast<int>(std::clamp<int64_t>(calls, kFewestCalls, kMostCalls));
}

double median_microseconds(TimedGraph& graph) {
  std::vector<double> rounds;
  graph.microseconds();
  for (int i = 0; i < kDeviceRounds; ++i) rounds.push_back(graph.microseconds());
  return median(rounds);
}

// Graph of the fastest algorithm that cuBLAS proposes. product(i): of call i.
TimedGraph fastest_dense(Cublas& cublas, int calls,
                         const std::function<CublasProduct(int)>& product) {
  const int algorithms = cublas.algorithms(product(0));
  std::vector<TimedGraph> graphs;
  int best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (int algorithm = 0; algorithm < algorithms; ++algorithm) {
    cublas.multiply(product(0), nullptr, algorithm);
    finish_device();
    graphs.emplace_back(
        calls, [&](int i, void* stream) { cublas.multiply(product(i), stream, algorithm); });
    const double microseconds = median_microseconds(graphs.back());
    if (microseconds >= least) continue;
    least = microseconds;
    best = algorithm;
  }
  return std::move(graphs[static_cast<size_t>(best)]);
}

double device_bandwidth() {
  const DeviceArray memory = random_array(Dtype::kI8, kProbeBytes);
  const DeviceArray sums(static_cast<size_t>(read_sums_bytes()));
  read_memory(memory, sums, nullptr);
  finish_device();
  TimedGraph graph(kFewestCalls,
                   [&](int /*i*/, void* stream) { read_memory(memory, sums, stream); });
  return kProbeBytes / median_microseconds(graph) * 1e6;
}

double dense_rate(Cublas& cublas, Dtype type) {
  constexpr int64_t kElements = kProbeSize * kProbeSize;
  const DeviceArray x = random_array(type, kElements);
  const DeviceArray w = random_array(type, kElements);
  const DeviceArray y(kElements * (type == Dtype::kI8 ? 4 : 2));
  TimedGraph graph = fastest_dense(cublas, kFewestCalls, [&](int /*i*/) {
    return CublasProduct{.type = type,
                         .M = kProbeSize,
                         .N = kProbeSize,
                         .K = kProbeSize,
                         .x = x.data(),
                         .x_stride = kProbeSize,
                         .w = w.data(),
                         .w_stride = kProbeSize,
                         .y = y.data(),
                         .y_stride = kProbeSize};
  });
  return 2. * kProbeSize * kElements / median_microseconds(graph) * 1e6;
}

}  // namespace

DeviceProduct::DeviceProduct(const LinearInputs& inputs, int64_t N)
    : type_(inputs.type),
      M_(inputs.x.rows()),
      N_(N),
      x_stride_(divide_up(inputs.x.cols(), 8) * 8),
      y_(static_cast<size_t>(M_ * N * 2)) {
  std::vector<uint16_t> x(static_cast<size_t>(M_ * x_stride_), uint16_t{0x7fff});  // NaN beyond K
  for (int64_t m = 0; m < M_; ++m) {
    for (int64_t k = 0; k < inputs.x.cols(); ++k) {
      x[static_cast<size_t>(m * x_stride_ + k)] = bits_of(inputs.x(m, k), type_);
    }
  }
  std::vector<uint16_t> bias;
  for (const float value : inputs.bias) bias.push_back(bits_of(value, type_));
  x_ = device_copy(x);
  bias_ = device_copy(bias);
}

void DeviceProduct::launch(DeviceLinear& layer, void* stream) const {
  layer.multiply(type_, x_.data(), M_, x_stride_, bias_.data(), y_.data(), stream);
}

Matrix DeviceProduct::run(DeviceLinear& layer) {
  std::vector<uint16_t> values(static_cast<size_t>(M_ * N_), uint16_t{0x7fff});
  y_ = device_copy(values);
  launch(layer, nullptr);
  finish_device();
  y_.read(std::as_writable_bytes(std::span(values)));
  Matrix y(M_, N_);
  for (size_t i = 0; i < values.size(); ++i) {
    y.data()[i] = type_ == Dtype::kF16 ? f16_to_float(values[i]) : bf16_to_float(values[i]);
  }
  return y;
}

Arithmetic arithmetic_of(const LinearPlan& plan) {
  if (is_integer(plan.choice.kind)) return Arithmetic::kIntegers;
  return plan.slab_rows == 0 && plan.choice.tokens <= kMostFewTokens
             ? Arithmetic::kScalesAfterSums
             : Arithmetic::kScalesIntoWeights;
}

std::string kernel_name(const LinearPlan& plan) {
  if (plan.slab_rows > 0) return "dequantize + cublas";
  const bool few = !is_integer(plan.choice.kind) && plan.choice.tokens <= kMostFewTokens;
  return (few ? "few_tokens " : "token_tiles ") + std::to_string(plan.choice.tokens);
}

DeviceBench::DeviceBench(bool times) : device_(describe_device()) {
  if (!times) return;
  Cublas& cublas = workspace_->cublas();
  roofs_.bytes_per_second = device_bandwidth();
  roofs_.operations_per_second = dense_rate(cublas, Dtype::kF16);
  roofs_.integer_operations_per_second = dense_rate(cublas, Dtype::kI8);
}

BenchResult DeviceBench::run(const BenchCase& product, const QuantizedLinear& q) {
  const FragmentLinear packed = pack_fragments(q, product.layer);
  DeviceLinear layer(packed, workspace_);
  const LinearPlan plan = layer.plan(product.M);
  const LinearInputs inputs = random_inputs(product.type, product.M, q.N, q.K, product.bias);
  DeviceProduct arrays(inputs, q.N);
  const Matrix y = arrays.run(layer);
  BenchResult result{product,
                     "cuda",
                     kernel_name(plan),
                     judge(expected_outputs(inputs, q, arithmetic_of(plan)), y),
                     {}};
  const Matrix again = arrays.run(layer);
  if (result.judgement.problem.empty() && y != again) {
    result.judgement.problem = "another result when it is run again";
  }
  if (product.timed) result.timing = time(product, packed, arrays);
  return result;
}

Timing DeviceBench::time(const BenchCase& product, const FragmentLinear& packed,
                         const DeviceProduct& arrays) {
  const int64_t M = product.M, N = packed.N, K = packed.K;
  std::vector<DeviceLinear> layers;
  const int calls = calls_for(packed.bytes(), device_.cache_bytes);
  for (int i = 0; i < calls; ++i) {
    layers.emplace_back(packed, workspace_);
    arrays.launch(layers.back(), nullptr);  // makes its scratch memory
  }
  finish_device();
  TimedGraph graph(
      calls, [&](int i, void* stream) { arrays.launch(layers[static_cast<size_t>(i)], stream); });

  std::vector<DeviceArray> dense;
  const int dense_calls = calls_for(2 * N * K, device_.cache_bytes);
  for (int i = 0; i < dense_calls; ++i) dense.push_back(random_array(Dtype::kF16, N * K));
  const DeviceArray x = random_array(Dtype::kF16, M * K);
  const DeviceArray y(static_cast<size_t>(M * N * 2));
  TimedGraph dense_graph = fastest_dense(workspace_->cublas(), dense_calls, [&](int i) {
    return CublasProduct{.M = M,
                         .N = N,
                         .K = K,
                         .x = x.data(),
                         .x_stride = K,
                         .w = dense[static_cast<size_t>(i)].data(),
                         .w_stride = K,
                         .y = y.data(),
                         .y_stride = N};
  });

  std::vector<double> ours, theirs;
  for (int round = 0; round <= kDeviceRounds; ++round) {
    const double microseconds = graph.microseconds();
    const double dense_microseconds = dense_graph.microseconds();
    if (round == 0) continue;  // warms up
    ours.push_back(microseconds);
    theirs.push_back(dense_microseconds);
  }
  Timing timing;
  timing.microseconds = median(ours);
  timing.dense_microseconds = median(theirs);
  timing.bytes = static_cast<double>(packed.bytes() + 2 * M * (N + K));
  timing.operations = 2. * static_cast<double>(M) * static_cast<double>(N * K);
  timing.share_of_roof = share_of_roof(timing, roofs_, is_integer(packed.kind));
  return timing;
}

}  // namespace nibble
