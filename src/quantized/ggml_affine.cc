#include "src/quantized/ggml_affine.h"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace nibble {
namespace {

template <size_t kGroups>
[[gnu::always_inline]] inline void load_block(const float* values, const AffineSearch& search,
                                              AffineBlock<kGroups>& block) {
  constexpr size_t kWidth = AffineBlock<kGroups>::kWidth;
  for (size_t i = 0; i < kWidth; ++i) {
    for (size_t g = 0; g < kGroups; ++g) block.x[i][g] = values[g * kWidth + i];
  }
  PerGroup<kGroups> mean = {};
  block.low = PerGroup<kGroups>{};
  block.high = block.x[0];
  for (const PerGroup<kGroups>& x : block.x) {
    mean += x * x;
    block.low = x < block.low ? x : block.low;
    block.high = x > block.high ? x : block.high;
  }
  for (size_t g = 0; g < kGroups; ++g) {
    mean[g] = search.raised ? std::sqrt(mean[g] / static_cast<float>(kWidth)) : 0.F;
  }
  for (size_t i = 0; i < kWidth; ++i) {
    block.weights[i] = mean + (block.x[i] < 0.F ? -block.x[i] : block.x[i]);
  }
}

// tried = rne((x - minimum) * steps_per_weight), 0 .. last.
template <size_t kGroups>
[[gnu::always_inline]] inline void round_block(const PerGroup<kGroups>& steps_per_weight, int last,
                                               AffineBlock<kGroups>& block) {
  using Integers = typename Lanes<kGroups>::Integers;
  for (size_t i = 0; i < AffineBlock<kGroups>::kWidth; ++i) {
    const PerGroup<kGroups> shifted =
        steps_per_weight * (block.x[i] - block.minimum) + kRoundingShift;
    Integers code = reinterpret_cast<Integers>(shifted) - std::bit_cast<int32_t>(kRoundingShift);
    code = code < 0 ? Integers{} : code;
    code = code > last ? Integers{} + last : code;
    block.tried[i] = __builtin_convertvector(code, PerGroup<kGroups>);
  }
}

// Of `tried` with these parameters.
template <size_t kGroups>
[[gnu::always_inline]] inline void errors_of(const PerGroup<kGroups>& scale,
                                             const PerGroup<kGroups>& minimum, bool absolute,
                                             const AffineBlock<kGroups>& block,
                                             PerGroup<kGroups>& errors) {
  errors = PerGroup<kGroups>{};
  for (size_t i = 0; i < AffineBlock<kGroups>::kWidth; ++i) {
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

template <size_t kGroups>
[[gnu::always_inline]] inline void least_squares(const PerGroup<kGroups>& sum_w,
                                                 const PerGroup<kGroups>& sum_x,
                                                 const AffineBlock<kGroups>& block,
                                                 LeastSquares<kGroups>& fit) {
  PerGroup<kGroups> sum_q = {};
  PerGroup<kGroups> sum_qq = {};
  PerGroup<kGroups> sum_xq = {};
  for (size_t i = 0; i < AffineBlock<kGroups>::kWidth; ++i) {
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
template <size_t kGroups>
[[gnu::always_inline]] inline void search_affine(const float* values, const AffineSearch& search,
                                                 AffineBlock<kGroups>& block) {
  load_block<kGroups>(values, search, block);
  PerGroup<kGroups> sum_w = {};
  PerGroup<kGroups> sum_x = {};
  for (size_t i = 0; i < AffineBlock<kGroups>::kWidth; ++i) {
    sum_w += block.weights[i];
    sum_x += block.weights[i] * block.x[i];
  }
  const auto last = static_cast<float>(search.last);
  block.minimum = block.low;
  PerGroup<kGroups> steps = last / (block.high - block.low);
  block.scale = 1.F / steps;
  round_block<kGroups>(steps, search.last, block);
  block.best = block.tried;
  PerGroup<kGroups> least;
  errors_of<kGroups>(block.scale, block.minimum, search.absolute, block, least);
  for (int step = 0; step <= search.steps; ++step) {
    const float range = search.first + 0.1F * static_cast<float>(step) + last;
    steps = range / (block.high - block.minimum);
    round_block<kGroups>(steps, search.last, block);
    LeastSquares<kGroups> fit;
    least_squares<kGroups>(sum_w, sum_x, block, fit);
    PerGroup<kGroups> errors;
    errors_of<kGroups>(fit.scale, fit.minimum, search.absolute, block, errors);
    const typename Lanes<kGroups>::Integers better = (fit.determinant > 0.F) & (errors < least);
    least = better ? errors : least;
    block.scale = better ? fit.scale : block.scale;
    block.minimum = better ? fit.minimum : block.minimum;
    for (size_t i = 0; i < AffineBlock<kGroups>::kWidth; ++i) {
      block.best[i] = better ? block.tried[i] : block.best[i];
    }
  }
}

}  // namespace

// The same instructions with wider vectors where there are some; the bits are the same.
#define NIBBLE_VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))

NIBBLE_VECTOR_CLONES void search_affine_groups(const float* values, const AffineSearch& search,
                                               AffineBlock<8>& block) {
  search_affine<8>(values, search, block);
}

NIBBLE_VECTOR_CLONES void search_affine_groups(const float* values, const AffineSearch& search,
                                               AffineBlock<16>& block) {
  search_affine<16>(values, search, block);
}

}  // namespace nibble
