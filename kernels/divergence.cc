// KL(p || q) = sum p (log p - log q) = sum p (lp - lq) - (log Zp - log Zq), lp and lq the logits.
#include "kernels/divergence.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/row_paths.h"

namespace nibble {
namespace {

constexpr int64_t kBlock = 512;  // logits per float sum

}  // namespace

TokenDivergence divergence(std::span<const float> q, std::span<const float> p, int32_t target) {
  assert(q.size() == p.size());
  const RowPath& path = row_path();
  const auto n = static_cast<int64_t>(q.size());
  const float q_top = path.max(q.data(), n);
  const float p_top = path.max(p.data(), n);
  double q_sum = 0;
  double p_sum = 0;
  double weighted = 0;  // sum of exp(lp - top) (lp - lq)
  std::array<float, kBlock> weights{};
  std::array<float, kBlock> differences{};
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t count = std::min(kBlock, n - first);
    const float* p_block = p.data() + first;
    const float* q_block = q.data() + first;
    std::copy_n(p_block, count, weights.begin());
    std::transform(p_block, p_block + count, q_block, differences.begin(),
                   [](float a, float b) { return a - b; });
    p_sum += static_cast<double>(path.exp(weights.data(), count, p_top));
    q_sum += static_cast<double>(path.exp_sum(q_block, count, q_top));
    weighted += static_cast<double>(path.dot(weights.data(), differences.data(), count));
  }
  const double q_norm = static_cast<double>(q_top) + std::log(q_sum);
  const double p_norm = static_cast<double>(p_top) + std::log(p_sum);
  const auto top = [](std::span<const float> logits, float value) {
    return std::find(logits.begin(), logits.end(), value) - logits.begin();
  };
  return {q_norm - static_cast<double>(q[static_cast<size_t>(target)]),
          p_norm - static_cast<double>(p[static_cast<size_t>(target)]),
          weighted / p_sum - (p_norm - q_norm), top(q, q_top) == top(p, p_top)};
}

}  // namespace nibble
