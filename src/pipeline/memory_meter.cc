#include "src/pipeline/memory_meter.h"

#include <chrono>
#include <cstdint>
#include <fstream>
#include <mutex>
#include <sstream>
#include <string>

namespace nibble {
namespace {

constexpr std::chrono::milliseconds kInterval{50};

int64_t own_bytes() {
  std::ifstream status("/proc/self/status");
  int64_t kilobytes = 0;
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("RssAnon:") && !line.starts_with("RssShmem:")) continue;
    std::istringstream fields(line.substr(line.find(':') + 1));
    int64_t value = 0;
    if (fields >> value) kilobytes += value;
  }
  return kilobytes * 1024;
}

}  // namespace

MemoryMeter::MemoryMeter() {
  sample();
  thread_ = std::thread([this] {
    std::unique_lock lock(mutex_);
    while (!stop_signal_.wait_for(lock, kInterval, [this] { return stop_; })) sample();
  });
}

MemoryMeter::~MemoryMeter() {
  {
    const std::scoped_lock lock(mutex_);
    stop_ = true;
  }
  stop_signal_.notify_one();
  thread_.join();
}

int64_t MemoryMeter::peak_bytes() {
  sample();
  return peak_bytes_;
}

void MemoryMeter::sample() {
  const int64_t now = own_bytes();
  int64_t peak = peak_bytes_;
  while (now > peak && !peak_bytes_.compare_exchange_weak(peak, now)) {
  }
}

}  // namespace nibble
