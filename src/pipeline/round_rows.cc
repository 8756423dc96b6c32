#include "src/pipeline/round_rows.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "quantizers/solvers/solver.h"
#include "src/quantized/comparison.h"
#include "src/quantized/entropy.h"
#include "src/quantized/own_rows.h"
#include "src/quantized/range_rule.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kStripWeights = int64_t{1} << 16;  // 256 KB of floats: a quarter of a core's L2

// What is known of a strip of rows beside its codes.
struct Strip {
  ScaleRounding rounding;
  Comparison comparison;
  std::array<int64_t, 256> counts{};
};

class Rounding {
 public:
  Rounding(const TensorView& stored, const std::function<SolverResult(const Matrix&)>& solve)
      : stored_(stored),
        solve_(solve),
        rows_(std::max<int64_t>(1, kStripWeights / stored.shape[1])),
        strips_(static_cast<size_t>((stored.shape[0] + rows_ - 1) / rows_)) {}

  std::optional<RoundedRows> run() {
    Matrix first;
    if (!make(0, first)) return std::nullopt;
    bool whole = true;
#pragma omp parallel
    {
      Matrix W;  // of a thread
#pragma omp for schedule(dynamic) reduction(&& : whole)
      for (size_t strip = 1; strip < strips_.size(); ++strip) whole = make(strip, W) && whole;
    }
    if (!whole) return std::nullopt;
    for (const Strip& strip : strips_) add(strip);
    return std::move(rounded_);
  }

 private:
  bool make(size_t strip, Matrix& W) {
    const int64_t first = static_cast<int64_t>(strip) * rows_;
    read(first, W);
    try {
      const SolverResult part = solve_(W);
      if (strip == 0) rounded_.result.q = room_for_rows(part.q, stored_.shape[0]);
      place_rows(part.q, first, rounded_.result.q);
      strips_[strip] = {part.rounding, compare(W, part.q), code_counts(part.q)};
    } catch (const std::exception&) {  // none may leave a parallel region
      return false;
    }
    return true;
  }

  // Rows from `first` on.
  void read(int64_t first, Matrix& W) const {
    const int64_t K = stored_.shape[1];
    W.resize(std::min(rows_, stored_.shape[0] - first), K);
    const int64_t row_bytes = K * dtype_bits(stored_.dtype) / 8;
    const auto part = stored_.bytes.subspan(static_cast<size_t>(first * row_bytes),
                                            static_cast<size_t>(W.rows() * row_bytes));
    to_float({stored_.dtype, {W.rows(), K}, part, stored_.device},
             {W.data(), static_cast<size_t>(W.size())});
  }

  void add(const Strip& strip) {
    rounded_.result.rounding.raised_to_smallest += strip.rounding.raised_to_smallest;
    rounded_.comparison.weights += strip.comparison.weights;
    rounded_.comparison.error += strip.comparison.error;
    rounded_.comparison.clipped += strip.comparison.clipped;
    for (size_t code = 0; code < strip.counts.size(); ++code) {
      rounded_.counts[code] += strip.counts[code];
    }
  }

  const TensorView& stored_;
  const std::function<SolverResult(const Matrix&)>& solve_;
  int64_t rows_;  // of a strip, but the last
  std::vector<Strip> strips_;
  RoundedRows rounded_;
};

}  // namespace

std::optional<RoundedRows> round_rows(const TensorView& stored,
                                      const std::function<SolverResult(const Matrix&)>& solve) {
  return Rounding(stored, solve).run();
}

}  // namespace nibble
