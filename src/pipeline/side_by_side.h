// Jobs that need nothing of each other, a few of them side by side, each with its share of OpenMP's
// threads. What one thread does alone (system calls, hashing, first touches of memory) then runs
// beside the work of another job.
#pragma once

#include <cstddef>
#include <functional>

namespace nibble {

// Jobs run at the same time: each may hold a whole layer in memory.
inline constexpr int kSideBySide = 4;

// Runs job(0) .. job(count - 1), each once and begun in this order, and returns when all have
// ended. After an exception no further job begins; then the one of the first job is thrown.
void run_side_by_side(size_t count, const std::function<void(size_t)>& job);

}  // namespace nibble
