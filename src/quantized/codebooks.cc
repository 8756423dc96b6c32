#include "src/quantized/codebooks.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// Levels in ascending order, each once, and the borders between them: a halving search.
class NearestLevel {
 public:
  explicit NearestLevel(int bits) : half_(size_t{1} << bits >> 1) {}

  // levels: [2^bits]
  void set(std::span<const float> levels) {
    order_.clear();
    for (size_t c = 0; c < levels.size(); ++c) {
      order_.emplace_back(levels[c], static_cast<uint8_t>(c));
    }
    std::stable_sort(order_.begin(), order_.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    order_.erase(std::unique(order_.begin(), order_.end(),
                             [](const auto& a, const auto& b) { return a.first == b.first; }),
                 order_.end());
    borders_.fill(std::numeric_limits<float>::infinity());
    for (size_t i = 0; i < order_.size(); ++i) code_[i] = order_[i].second;
    for (size_t i = 1; i < order_.size(); ++i) borders_[i - 1] = border(order_[i - 1], order_[i]);
  }

  uint8_t code(float w) const {
    size_t at = 0;
    for (size_t step = half_; step > 0; step /= 2) at += w > borders_[at + step - 1] ? step : 0;
    return code_[at];
  }

 private:
  using Level = std::pair<float, uint8_t>;  // value, code

  // The largest float that takes the lower level. Halfway both are as near: the lower code.
  static float border(const Level& low, const Level& high) {
    const double halfway = (static_cast<double>(low.first) + static_cast<double>(high.first)) / 2.;
    auto found = static_cast<float>(halfway);
    const bool to_low = low.second < high.second;
    const bool beyond =
        to_low ? static_cast<double>(found) > halfway : static_cast<double>(found) >= halfway;
    if (beyond) found = std::nextafter(found, -std::numeric_limits<float>::infinity());
    return found;
  }

  size_t half_;
  std::vector<Level> order_;
  std::array<float, 255> borders_{};
  std::array<uint8_t, 256> code_{};
};

}  // namespace

Scheme kmeans_scheme(int bits, int64_t group_size, bool per_tensor) {
  if (bits < 1 || bits > 8) {
    throw Error("", "codebooks of " + std::to_string(bits) + " bits", "expected 1 to 8");
  }
  if (group_size != kAll && (group_size < 1 || per_tensor)) {
    throw Error("",
                "group size " + std::to_string(group_size) +
                    (per_tensor ? " with one codebook for the tensor" : ""),
                "expected a positive number of columns, or whole rows");
  }
  Scheme scheme;
  scheme.grid = {.kind = Grid::Kind::kCodebook, .bits = bits};
  scheme.codebook_blocking = {.rows = per_tensor ? kAll : 1, .columns = group_size};
  return scheme;
}

int64_t codebook_index(const QuantizedLinear& q, int64_t n, int64_t k) {
  return block_at(q.scheme.codebook_blocking, q.K, n, k);
}

void round_to_codebooks(ConstMatrixRef W, QuantizedLinear& q) {
  assert(q.scheme.grid.kind == Grid::Kind::kCodebook);
  assert(!q.scheme.scale && !q.scheme.zero && !q.scheme.minimum);
  const auto levels_of_book = size_t{1} << q.scheme.grid.bits;
  std::vector<float> levels(static_cast<size_t>(q.codebooks.elements()));
  to_float(q.codebooks.view(), levels);
  Tensor codes = Tensor::allocate(Dtype::kU8, {q.N, q.K});
  const std::span<uint8_t> out = codes.mutable_values<uint8_t>();
#pragma omp parallel if (W.size() > kParallelWeights)
  {
    NearestLevel nearest(q.scheme.grid.bits);
    int64_t book = -1;
    std::vector<Run> runs;
#pragma omp for schedule(static)
    for (int64_t n = 0; n < q.N; ++n) {
      list_runs(q.scheme.codebook_blocking, {}, q.K, n, runs);
      for (const Run& run : runs) {
        if (run.block != book) {
          const size_t first = static_cast<size_t>(run.block) * levels_of_book;
          nearest.set(std::span(levels).subspan(first, levels_of_book));
          book = run.block;
        }
        for (int64_t k = run.first; k < run.end; ++k) {
          out[static_cast<size_t>(n * q.K + k)] = nearest.code(W(n, k));
        }
      }
    }
  }
  q.codes = std::move(codes);
}

}  // namespace nibble
