#include "kernels/bench/cpu_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/bench/bench_case.h"
#include "kernels/bench/linear_reference.h"
#include "kernels/dequant_matmul.h"
#include "kernels/dequant_matmul_paths.h"
#include "kernels/int8_matmul.h"
#include "kernels/int8_paths.h"
#include "kernels/matmul.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr double kColdBytes = 2e8;  // of weights in turn: several times what caches hold
constexpr int kRounds = 5;

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Seconds of one of `calls` calls in every round, after a first that does not count.
std::vector<double> round_seconds(int64_t calls, const std::function<void(int64_t)>& call) {
  std::vector<double> seconds;
  for (int round = 0; round <= kRounds; ++round) {
    const double all = seconds_of([&] {
      for (int64_t i = 0; i < calls; ++i) call(i);
    });
    if (round > 0) seconds.push_back(all / static_cast<double>(calls));
  }
  return seconds;
}

int64_t cold_copies(double bytes) { return std::max<int64_t>(1, std::lround(kColdBytes / bytes)); }

Matrix fill(int64_t rows, int64_t columns) {
  Matrix result(rows, columns);
  uint32_t state = 1;
  for (int64_t i = 0; i < result.size(); ++i) {
    state = state * 1664525U + 1013904223U;
    result.data()[i] = static_cast<float>(state >> 8) * 0x1p-23F - 1.F;
  }
  return result;
}

double read_bandwidth() {
  constexpr int64_t kWords = int64_t{1} << 25;  // 256 MiB
  constexpr int64_t kBlock = 1 << 17;           // 1 MiB for a thread at a time
  const std::vector<uint64_t> words(kWords, 1);
  uint64_t sum = 0;
  const std::vector<double> seconds = round_seconds(1, [&](int64_t) {
    uint64_t total = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : total)
    for (int64_t first = 0; first < kWords; first += kBlock) {
      for (int64_t i = first; i < first + kBlock; ++i) total += words[static_cast<size_t>(i)];
    }
    sum += total;
  });
  // What was read is used, or nothing need be read.
  return sum > 0 ? 8. * kWords / *std::ranges::min_element(seconds) : 0.;
}

// Seconds of y = x W' with dense weights that are in no cache.
std::vector<double> dense_seconds(int64_t M, int64_t N, int64_t K) {
  const Matrix x = fill(M, K);
  Matrix y(M, N);
  std::vector<PanelMatrix> weights;
  const int64_t copies = cold_copies(4. * static_cast<double>(N * K));
  for (int64_t i = 0; i < copies; ++i) weights.push_back(make_panels(fill(N, K)));
  return round_seconds(copies, [&](int64_t i) { matmul(x, weights[static_cast<size_t>(i)], y); });
}

double dense_rate() {
  constexpr int64_t kSize = 1024;
  const std::vector<double> seconds = dense_seconds(kSize, kSize, kSize);
  return 2. * kSize * kSize * kSize / *std::ranges::min_element(seconds);
}

// A product by one path, and how often its weights were copied.
struct Kernel {
  std::string name;
  std::function<void(const Matrix& x, MatrixRef y)> first;  // with the first copy
  std::function<double(const Matrix& x, MatrixRef y)> seconds;
  double weight_bytes = 0;
};

template <typename Packed, typename Make, typename Multiply>
Kernel kernel_of(const std::string& name, const Make& make, const Multiply& multiply) {
  auto packed = std::make_shared<std::vector<Packed>>();
  packed->push_back(make());
  Kernel kernel;
  kernel.name = name;
  kernel.weight_bytes = static_cast<double>(packed->front().bytes());
  kernel.first = [=](const Matrix& x, MatrixRef y) { multiply(x, packed->front(), y); };
  kernel.seconds = [=, bytes = kernel.weight_bytes](const Matrix& x, MatrixRef y) {
    const int64_t copies = cold_copies(bytes);
    while (std::ssize(*packed) < copies) packed->push_back(make());
    return median(round_seconds(
        copies, [&](int64_t i) { multiply(x, (*packed)[static_cast<size_t>(i)], y); }));
  };
  return kernel;
}

// The fastest last.
std::vector<Kernel> kernels_of(const QuantizedLinear& q) {
  if (q.scheme.activations) {
    return {kernel_of<Int8Linear>(
        "int8_matmul " + std::string(int8_paths().back()->name), [&q] { return make_int8(q); },
        [](const Matrix& x, const Int8Linear& w, MatrixRef y) { int8_matmul(x, w, y); })};
  }
  std::vector<Kernel> kernels;
  for (const DequantPath* path : dequant_paths()) {
    kernels.push_back(kernel_of<PackedLinear>(
        "dequant_matmul " + std::string(path->name), [&q] { return pack(q); },
        [path](const Matrix& x, const PackedLinear& w, MatrixRef y) {
          dequant_matmul(x, w, y, Accumulate::kNo, *path);
        }));
  }
  return kernels;
}

}  // namespace

std::string cpu_refusal(const QuantizedLinear& q) {
  if (q.scheme.activations) return can_run_int8(q) ? "" : "no 8-bit integers of one scale a row";
  return can_pack(q) ? "" : "codebooks or groups that no row of words holds";
}

CpuBench::CpuBench(bool times) {
  if (!times) return;
  roofs_.bytes_per_second = read_bandwidth();
  roofs_.operations_per_second = dense_rate();
}

std::vector<BenchResult> CpuBench::run(const BenchCase& product, const QuantizedLinear& q) const {
  const LinearInputs inputs = random_inputs(Dtype::kF32, product.M, q.N, q.K, product.bias);
  const bool integers = q.scheme.activations.has_value();
  const ExpectedOutputs expected =
      expected_outputs(inputs, q, integers ? Arithmetic::kIntegers : Arithmetic::kFloat);
  std::vector<BenchResult> results;
  const std::vector<Kernel> kernels = kernels_of(q);
  for (const Kernel& kernel : kernels) {
    Matrix y = Matrix::Constant(product.M, q.N, std::numeric_limits<float>::quiet_NaN());
    kernel.first(inputs.x, y);
    if (product.bias) add_row(ConstVectorMap(inputs.bias.data(), q.N), y);
    BenchResult result{product, "cpu", kernel.name, judge(expected, y), {}};
    if (product.timed && &kernel == &kernels.back()) {
      Timing timing;
      timing.microseconds = 1e6 * kernel.seconds(inputs.x, y);
      timing.dense_microseconds = 1e6 * median(dense_seconds(product.M, q.N, q.K));
      timing.bytes = kernel.weight_bytes + 4. * static_cast<double>(product.M * (q.N + q.K));
      timing.operations = 2. * static_cast<double>(product.M * q.N * q.K);
      timing.share_of_roof = share_of_roof(timing, roofs_, integers);
      result.timing = timing;
    }
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace nibble
