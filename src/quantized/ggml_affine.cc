#include "src/quantized/ggml_affine.h"

#include <cstddef>
#include <limits>

#include "src/quantized/ggml_groups.h"

namespace nibble {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Weights and what they count, low and high.
template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void load_block(const float* values, const float* given,
                                              const AffineSearch& search,
                                              AffineBlock<kGroups, kWidth>& block) {
  load_groups<kGroups, kWidth>(values, search.weights, given, block);
  block.low = PerGroup<kGroups>{};
  block.high = block.x[0];
  for (const PerGroup<kGroups>& x : block.x) {
    block.low = x < block.low ? x : block.low;
    block.high = x > block.high ? x : block.high;
  }
}

// tried = rne((x - minimum) * steps_per_weight), 0 .. last.
template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void round_block(const PerGroup<kGroups>& steps_per_weight, int last,
                                               AffineBlock<kGroups, kWidth>& block) {
  for (size_t i = 0; i < kWidth; ++i) {
    round_codes<kGroups>(steps_per_weight * (block.x[i] - block.minimum), 0, last, block.tried[i]);
  }
}

// Of `tried` with these parameters.
template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void errors_of(const PerGroup<kGroups>& scale,
                                             const PerGroup<kGroups>& minimum, bool absolute,
                                             const AffineBlock<kGroups, kWidth>& block,
                                             PerGroup<kGroups>& errors) {
  errors = PerGroup<kGroups>{};
  for (size_t i = 0; i < kWidth; ++i) {
    const PerGroup<kGroups> off = scale * block.tried[i] + minimum - block.x[i];
    errors += block.weights[i] * (absolute ? (off < 0.F ? -off : off) : off * off);
  }
}

// Scale and minimum of least weighted squares for `tried`; determinant: 0 or less where there is
// none.
template <size_t kGroups>
struct LeastSquares {
  PerGroup<kGroups> scale, minimum, determinant;
};

template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void least_squares(const PerGroup<kGroups>& sum_w,
                                                 const PerGroup<kGroups>& sum_x,
                                                 const AffineBlock<kGroups, kWidth>& block,
                                                 LeastSquares<kGroups>& fit) {
  PerGroup<kGroups> sum_q = {};
  PerGroup<kGroups> sum_qq = {};
  PerGroup<kGroups> sum_xq = {};
  for (size_t i = 0; i < kWidth; ++i) {
    const PerGroup<kGroups> weighted = block.weights[i] * block.tried[i];
    sum_q += weighted;
    sum_qq += weighted * block.tried[i];
    sum_xq += weighted * block.x[i];
  }
  fit.determinant = sum_w * sum_qq - sum_q * sum_q;
  fit.scale = (sum_w * sum_xq - sum_x * sum_q) / fit.determinant;
  fit.minimum = (sum_qq * sum_x - sum_q * sum_xq) / fit.determinant;
  fit.scale = fit.minimum > 0.F ? sum_xq / sum_qq : fit.scale;
  fit.minimum = fit.minimum > 0.F ? PerGroup<kGroups>{} : fit.minimum;
}

// q = rne((x - minimum) / scale) with scale and minimum (at most 0) from weighted least squares,
// over scales around (largest - minimum) / last, the minimum being the best so far.
template <size_t kGroups, size_t kWidth>
[[gnu::always_inline]] inline void search_affine(const float* values, const float* given,
                                                 const AffineSearch& search,
                                                 AffineBlock<kGroups, kWidth>& block) {
  load_block<kGroups, kWidth>(values, given, search, block);
  PerGroup<kGroups> sum_w = {};
  PerGroup<kGroups> sum_x = {};
  for (size_t i = 0; i < kWidth; ++i) {
    sum_w += block.weights[i];
    sum_x += block.weights[i] * block.x[i];
  }
  const auto last = static_cast<float>(search.last);
  block.minimum = block.low;
  PerGroup<kGroups> steps = last / (block.high - block.low);
  block.scale = 1.F / steps;
  round_block<kGroups, kWidth>(steps, search.last, block);
  block.best = block.tried;
  PerGroup<kGroups> least;
  errors_of<kGroups, kWidth>(block.scale, block.minimum, search.absolute, block, least);
  for (int step = 0; step <= search.steps; ++step) {
    const float range = search.first + search.step * static_cast<float>(step) + last;
    steps = range / (block.high - block.minimum);
    round_block<kGroups, kWidth>(steps, search.last, block);
    LeastSquares<kGroups> fit;
    least_squares<kGroups, kWidth>(sum_w, sum_x, block, fit);
    PerGroup<kGroups> errors;
    errors_of<kGroups, kWidth>(fit.scale, fit.minimum, search.absolute, block, errors);
    errors = fit.determinant > 0.F ? errors : PerGroup<kGroups>{} + kInfinity;
    const PerGroupInteger<kGroups> better = errors < least;
    least = better ? errors : least;
    block.scale = better ? fit.scale : block.scale;
    block.minimum = better ? fit.minimum : block.minimum;
    for (size_t i = 0; i < kWidth; ++i) {
      block.best[i] = better ? block.tried[i] : block.best[i];
    }
  }
}

}  // namespace

NIBBLE_VECTOR_CLONES void search_affine_groups(const float* values, const float* given,
                                               const AffineSearch& search,
                                               AffineBlock<8, 32>& block) {
  search_affine<8, 32>(values, given, search, block);
}

NIBBLE_VECTOR_CLONES void search_affine_groups(const float* values, const float* given,
                                               const AffineSearch& search,
                                               AffineBlock<16, 16>& block) {
  search_affine<16, 16>(values, given, search, block);
}

}  // namespace nibble
