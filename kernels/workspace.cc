#include "kernels/workspace.h"

#include <omp.h>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nibble {

void Workspace::prepare() {
  threads_.resize(std::max<size_t>(threads_.size(), static_cast<size_t>(omp_get_max_threads())));
}

Workspace::Rows Workspace::take(Slot slot, int64_t rows, int64_t columns) {
  constexpr int64_t kLine = 16;  // floats
  int64_t stride = (columns + kLine - 1) / kLine * kLine;
  if (stride % 256 == 0) stride += kLine;  // a multiple of 1 KB
  const auto thread = static_cast<size_t>(omp_get_thread_num());
  assert(thread < threads_.size());
  std::vector<float>& memory = threads_[thread][slot];
  const auto needed = static_cast<size_t>(rows * stride);
  if (memory.size() < needed) memory = std::vector<float>(needed);
  return {memory.data(), rows, columns, Eigen::OuterStride<>(stride)};
}

}  // namespace nibble
