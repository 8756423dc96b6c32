#include "src/pipeline/side_by_side.h"

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace nibble {
namespace {

class Jobs {
 public:
  Jobs(size_t count, const std::function<void(size_t)>& job)
      : count_(count), job_(job), failed_(count) {}

  void run() {
    while (true) {
      size_t index = 0;
      {
        const std::lock_guard lock(mutex_);
        if (next_ >= std::min(count_, failed_)) return;
        index = next_++;
      }
      try {
        job_(index);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (index >= failed_) continue;
        failed_ = index;
        error_ = std::current_exception();
      }
    }
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const size_t count_;
  const std::function<void(size_t)>& job_;
  std::mutex mutex_;
  size_t next_ = 0;
  size_t failed_;  // the first job that did; count_: none
  std::exception_ptr error_;
};

}  // namespace

void run_side_by_side(size_t count, const std::function<void(size_t)>& job) {
  const int threads = omp_get_max_threads();
  const int width = std::max(
      1, std::min({threads, kSideBySide, static_cast<int>(std::min(count, size_t{kSideBySide}))}));
  Jobs jobs(count, job);
  const auto run = [&](int place) {
    omp_set_num_threads(threads / width + (place < threads % width ? 1 : 0));
    jobs.run();
  };
  std::vector<std::jthread> others;
  for (int place = 1; place < width; ++place) others.emplace_back(run, place);
  run(0);
  others.clear();  // waits for them
  omp_set_num_threads(threads);
  jobs.rethrow();
}

}  // namespace nibble
