#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "kernels/row_paths.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int64_t kLogitRows = 256;
constexpr int64_t kBlockLogits = 512;  // with kLogitRows 512 KB: half of a core's L2

// log(sum of exp) so far of each row; sums over blocks in double.
struct RunningSum {
  float largest = -std::numeric_limits<float>::infinity();
  double sum = 0;
  float target = 0;  // its logit
};

void add_block(const RowPath& path, const float* logits, int64_t count, RunningSum& row) {
  const float largest = std::max(row.largest, path.max(logits, count));
  row.sum = row.sum * std::exp(static_cast<double>(row.largest) - largest) +
            path.exp_sum(logits, count, largest);
  row.largest = largest;
}

}  // namespace

std::vector<double> cross_entropy(int64_t vocabulary, std::span<const int32_t> targets,
                                  const std::function<Matrix(std::span<const int64_t>)>& rows,
                                  const LogitsBlock& logits) {
  std::vector<int64_t> scored;
  for (size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] >= 0) scored.push_back(static_cast<int64_t>(t));
  }
  std::vector<double> result(targets.size(), 0.0);
  const auto count = static_cast<int64_t>(scored.size());
  const int64_t blocks = (count + kLogitRows - 1) / kLogitRows;
  const RowPath& path = row_path();
#pragma omp parallel
  {
    Matrix buffer(std::min(kLogitRows, count), std::min(kBlockLogits, vocabulary));
#pragma omp for schedule(dynamic)
    for (int64_t block = 0; block < blocks; ++block) {
      const std::span<const int64_t> indexes = std::span(scored).subspan(
          block * kLogitRows, std::min(kLogitRows, count - block * kLogitRows));
      const auto n = static_cast<int64_t>(indexes.size());
      const Matrix x = rows(indexes);
      std::vector<RunningSum> sums(indexes.size());
      for (int64_t first = 0; first < vocabulary; first += kBlockLogits) {
        const int64_t width = std::min(kBlockLogits, vocabulary - first);
        logits(x, first, buffer.topLeftCorner(n, width));
        for (int64_t i = 0; i < n; ++i) {
          add_block(path, buffer.row(i).data(), width, sums[i]);
          const int64_t target = targets[indexes[i]];
          if (target >= first && target < first + width) sums[i].target = buffer(i, target - first);
        }
      }
      for (int64_t i = 0; i < n; ++i) {
        result[indexes[i]] = sums[i].largest + std::log(sums[i].sum) - sums[i].target;
      }
    }
  }
  return result;
}

}  // namespace nibble
