// What it takes to time kernels on a GPU: the device's name and cache, a CUDA graph between two
// events, and a read of memory to compare with. A build without CUDA has the same functions, which
// throw.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "kernels/cuda/device_array.h"

namespace nibble {

struct DeviceDescription {
  std::string name;         // "NVIDIA H200"
  std::string capability;   // "9.0"
  std::string cuda_driver;  // CUDA version of the driver, "13.0"
  int64_t cache_bytes = 0;  // L2
};
// Of the current device. Throws Error when there is none.
DeviceDescription describe_device();

// Calls recorded once and replayed without gaps between launches. Owns the graph and its stream.
class TimedGraph {
 public:
  // work(i, stream), i = 0 .. count - 1: launches only. All memory it needs has been made before.
  TimedGraph(int count, const std::function<void(int, void*)>& work);
  TimedGraph(TimedGraph&&) noexcept;
  TimedGraph& operator=(TimedGraph&&) noexcept;
  ~TimedGraph();

  // Replays it, waits, and returns a call's share of the time between the events around it.
  double microseconds();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Waits for all work of the device, and throws Error for what failed in it.
void finish_device();

// Reads all bytes of `memory`, whole 16-byte words of it. sums: at least read_sums_bytes().
int64_t read_sums_bytes();
void read_memory(const DeviceArray& memory, const DeviceArray& sums, void* stream);

}  // namespace nibble
