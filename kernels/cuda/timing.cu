#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "kernels/cuda/device.h"
#include "kernels/cuda/device_array.h"
#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/read_words.h"
#include "kernels/cuda/timing.h"

namespace nibble {
namespace {

int64_t read_blocks() { return int64_t{device_limits().multiprocessors} * ReadWords::kBlocks; }

}  // namespace

DeviceDescription describe_device() {
  device_limits();  // throws when there is no device
  int device = 0;
  cudaDeviceProp properties{};
  int driver = 0;
  NIBBLE_CHECK_CUDA(cudaGetDevice(&device));
  NIBBLE_CHECK_CUDA(cudaGetDeviceProperties(&properties, device));
  NIBBLE_CHECK_CUDA(cudaDriverGetVersion(&driver));
  return {properties.name,
          std::to_string(properties.major) + "." + std::to_string(properties.minor),
          std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10),
          properties.l2CacheSize};
}

struct TimedGraph::State {
  int count = 1;
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  cudaGraphExec_t graph = nullptr;

  ~State() {
    if (graph != nullptr) cudaGraphExecDestroy(graph);
    if (end != nullptr) cudaEventDestroy(end);
    if (begin != nullptr) cudaEventDestroy(begin);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
};

TimedGraph::TimedGraph(int count, const std::function<void(int, void*)>& work)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.count = count;
  NIBBLE_CHECK_CUDA(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking));
  NIBBLE_CHECK_CUDA(cudaEventCreate(&s.begin));
  NIBBLE_CHECK_CUDA(cudaEventCreate(&s.end));
  NIBBLE_CHECK_CUDA(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < count; ++i) work(i, s.stream);
  cudaGraph_t recorded = nullptr;
  NIBBLE_CHECK_CUDA(cudaStreamEndCapture(s.stream, &recorded));
  const cudaError_t status = cudaGraphInstantiate(&s.graph, recorded, 0);
  NIBBLE_CHECK_CUDA(cudaGraphDestroy(recorded));
  NIBBLE_CHECK_CUDA(status);
}

TimedGraph::TimedGraph(TimedGraph&&) noexcept = default;
TimedGraph& TimedGraph::operator=(TimedGraph&&) noexcept = default;
TimedGraph::~TimedGraph() = default;

double TimedGraph::microseconds() {
  State& s = *state_;
  NIBBLE_CHECK_CUDA(cudaEventRecord(s.begin, s.stream));
  NIBBLE_CHECK_CUDA(cudaGraphLaunch(s.graph, s.stream));
  NIBBLE_CHECK_CUDA(cudaEventRecord(s.end, s.stream));
  NIBBLE_CHECK_CUDA(cudaStreamSynchronize(s.stream));
  float milliseconds = 0.F;
  NIBBLE_CHECK_CUDA(cudaEventElapsedTime(&milliseconds, s.begin, s.end));
  return 1e3 * milliseconds / s.count;
}

void finish_device() { NIBBLE_CHECK_CUDA(cudaDeviceSynchronize()); }

int64_t read_sums_bytes() { return read_blocks() * ReadWords::kThreads * 4; }

void read_memory(const DeviceArray& memory, const DeviceArray& sums, void* stream) {
  ReadWords::Arguments a;
  a.words = memory.as<Words4>();
  a.count = static_cast<int64_t>(memory.bytes() / sizeof(Words4));
  a.sums = sums.as<uint32_t>();
  launch<ReadWords>(a, read_blocks(), static_cast<cudaStream_t>(stream));
}

}  // namespace nibble
