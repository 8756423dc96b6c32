// MemoryMeter: the peak of this process's own memory (RssAnon + RssShmem; mapped file pages do not
// count), sampled every 50 ms by a thread while it lives.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace nibble {

class MemoryMeter {
 public:
  MemoryMeter();
  ~MemoryMeter();
  MemoryMeter(const MemoryMeter&) = delete;
  MemoryMeter& operator=(const MemoryMeter&) = delete;

  // Samples once more and returns the peak so far.
  int64_t peak_bytes();

 private:
  void sample();

  std::atomic<int64_t> peak_bytes_ = 0;
  std::mutex mutex_;
  std::condition_variable stop_signal_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace nibble
