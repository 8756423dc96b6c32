// Workspace: memory that is used again from call to call, because fresh pages for every tile cost
// more than a tenth of a forward pass of a small model. Owns its memory; for one computation at a
// time, whose threads each have their own part.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "src/tensor/matrix.h"

namespace nibble {

class Workspace {
 public:
  enum Slot {
    // Shared by the threads, taken outside parallel regions.
    kProjections,
    kAttended,
    kPackedKeys,
    kPackedValues,
    // Of a thread.
    kNormed,
    kHidden,
    kProduct,
    kQueries,
    kScores,
    kOutputs,
    kSlots,
  };
  using Rows = Eigen::Map<Matrix, Eigen::Aligned16, Eigen::OuterStride<>>;

  // Before a parallel region: a part for each thread that it may have.
  void prepare();
  // The calling thread's memory of that name, not initialised, valid until its next take of the
  // same slot. Rows are apart so that they do not compete for the same sets of the L1 cache.
  Rows take(Slot slot, int64_t rows, int64_t columns);

 private:
  std::vector<std::array<std::vector<float>, kSlots>> threads_;
};

}  // namespace nibble
