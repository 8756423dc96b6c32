// Launch plans: from a product and a device to a kernel and its grid. Pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/cuda/choice.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/stream_k.h"

namespace nibble {

// Defaults: an H200.
struct DeviceLimits {
  int multiprocessors = 132;
  int shared_bytes = 228 << 10;        // of a multiprocessor
  int block_shared_bytes = 227 << 10;  // at most for a block
};

struct LinearProblem {
  FragmentKind kind = FragmentKind::kInt4;
  int64_t M = 1, N = 0, K = 0;
  int64_t group = 0;  // columns that share parameters; padded K for one group
};

struct LinearPlan {
  KernelChoice choice;
  int threads = 0;
  int shared_bytes = 0;  // of a block
  StreamK work;
  int64_t workspace_bytes = 0;  // LinearArguments::partial; counters are work.tiles words

  bool operator==(const LinearPlan&) const = default;
};

// Throws Error if there is no such product: fewer than one token, row or column, or 2^31 units.
LinearPlan plan_linear(const LinearProblem& problem, const DeviceLimits& device);

// "int4 8x4096x4096 g128: few tokens 8, 264 blocks of 256, 7.8 units each, 48 KB shared, ..."
std::string to_string(const LinearProblem& problem, const LinearPlan& plan);

}  // namespace nibble
