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

struct LinearShape {
  FragmentKind kind = FragmentKind::kInt4;
  int64_t M = 1, N = 0, K = 0;
  int64_t group = 0;  // columns that share parameters; padded K for one group
};

struct LinearPlan {
  // Not 0: `choice` is of no use but for its kind and what follows it is 0. So many rows of W at a
  // time, a multiple of kPaddedRows, are multiplied out in 16 bits, [slab_rows, slab_stride], for a
  // dense product (kernels/cuda/cublas.h).
  int64_t slab_rows = 0;
  KernelChoice choice;
  int threads = 0;
  int shared_bytes = 0;  // of a block
  StreamK work;
  int64_t workspace_bytes = 0;  // LinearArguments::partial; counters are work.tiles words

  bool operator==(const LinearPlan&) const = default;
};

// Columns of a row of a slab, and the most bytes of one: enough rows for products that fill a large
// GPU, 8192 of 8192 columns, and little beside the weights of a model.
constexpr int64_t slab_stride(int64_t K) { return (K + 7) / 8 * 8; }
inline constexpr int64_t kMostSlabBytes = int64_t{128} << 20;

// Throws Error if there is no such product: fewer than one token, row or column, or 2^31 units.
LinearPlan plan_linear(const LinearShape& problem, const DeviceLimits& device);

// "int4 8x4096x4096 g128: few tokens 8, 264 blocks of 256, 7.8 units each, 48 KB shared, ..."
std::string to_string(const LinearShape& problem, const LinearPlan& plan);

}  // namespace nibble
