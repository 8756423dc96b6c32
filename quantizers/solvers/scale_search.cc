#include "quantizers/solvers/scale_search.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "quantizers/solvers/gptq_lanes.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"

namespace nibble {
namespace {

constexpr int64_t kShrunk = 80;  // p = 1 - i / 100

size_t size_of(int64_t n) { return static_cast<size_t>(n); }

}  // namespace

GroupFitter::GroupFitter(const Scheme& scheme, ScaleSearch search, const StorableScales& storable)
    : scheme_(scheme),
      search_(search),
      storable_(storable),
      candidates_(search == ScaleSearch::kMinMax ? 4 : kShrunk),
      low_(size_of(kLanes)),
      high_(size_of(kLanes)),
      fitted_(size_of(candidates_ * kLanes)),
      scale_(fitted_.size()),
      first_(fitted_.size()),
      error_(fitted_.size()) {}

void GroupFitter::list_candidates(std::span<const int64_t> blocks) {
  const auto steps = static_cast<float>((1 << scheme_.grid.bits) - 1);
  const bool symmetric = scheme_.symmetric();
  const bool searches = search_ != ScaleSearch::kMinMax;
  for (int64_t c = 0; c < candidates_; ++c) {
    const float p = searches ? 1.f - static_cast<float>(c) / 100.f : 1.f;
    for (int64_t r = 0; r < kLanes; ++r) {
      const float low = low_[size_of(r)] * p;
      const float high = high_[size_of(r)] * p;
      const float fitted = symmetric ? std::max(-low, high) / (0.5f * steps) : (high - low) / steps;
      fitted_[size_of(c * kLanes + r)] = low == 0.f && high == 0.f ? 1.f : fitted;
    }
  }
  scale_ = fitted_;
  storable_.round(scale_, blocks);
  for (int64_t c = 0; c < candidates_; ++c) {
    const float p = searches ? 1.f - static_cast<float>(c) / 100.f : 1.f;
    for (int64_t r = 0; r < kLanes; ++r) {
      const size_t at = size_of(c * kLanes + r);
      if (scale_[at] == 0.f) scale_[at] = smallest_positive(scheme_.scale->type);
      const float zero = std::nearbyint(-(low_[size_of(r)] * p) / scale_[at]);
      const auto lowest = static_cast<float>(scheme_.grid.lowest);
      const ZeroRange range = storable_.zero_range(scale_[at], blocks[size_of(r)]);
      first_[at] = symmetric ? lowest : lowest - std::clamp(zero, range.smallest, range.largest);
    }
  }
}

void GroupFitter::choose(float* scale, float* first, std::span<Row> rows) const {
  const Dtype type = scheme_.scale->type;
  const bool saturates = is_float(type) && dtype_bits(type) == 8;
  const float largest = saturates ? largest_finite(type) : std::numeric_limits<float>::infinity();
  for (int64_t r = 0; r < kLanes; ++r) {
    int64_t best = -1;
    float least = std::numeric_limits<float>::infinity();
    for (int64_t c = 0; c < candidates_; ++c) {
      const size_t at = size_of(c * kLanes + r);
      // Types without infinity saturate instead.
      if (!std::isfinite(scale_[at]) || fitted_[at] > largest) continue;
      if (best < 0 || error_[at] < least) {
        best = c;
        least = error_[at];
      }
    }
    Row& row = rows[size_of(r)];
    row.failed = best < 0;
    const size_t at = size_of(std::max<int64_t>(best, 0) * kLanes + r);
    row.raised = !row.failed && fitted_[at] <= scale_[at] / 2.f;
    scale[r] = row.failed ? 1.f : scale_[at];
    first[r] = row.failed ? 0.f : first_[at];
  }
}

void GroupFitter::fit(std::span<const float* const> weights, std::span<const float> importance,
                      std::span<const int64_t> blocks, float* scale, float* first,
                      std::span<Row> rows) {
  std::fill(low_.begin(), low_.end(), 0.f);
  std::fill(high_.begin(), high_.end(), 0.f);
  for (const float* column : weights) {
    for (size_t r = 0; r < low_.size(); ++r) {
      low_[r] = std::min(low_[r], column[r]);
      high_[r] = std::max(high_[r], column[r]);
    }
  }
  list_candidates(blocks);
  if (search_ != ScaleSearch::kMinMax) {
    lane_paths().back()->search_group(
        {.columns = static_cast<int64_t>(weights.size()),
         .weights = weights.data(),
         .importance = search_ == ScaleSearch::kHessian ? importance.data() : nullptr,
         .candidates = candidates_,
         .scale = scale_.data(),
         .first = first_.data(),
         .last = static_cast<float>((1 << scheme_.grid.bits) - 1),
         .error = error_.data()});
    if (search_ == ScaleSearch::kMse) {
      for (size_t i = 0; i < error_.size(); ++i) error_[i] *= std::pow(scale_[i], 2.4f);
    }
  }
  choose(scale, first, rows);
}

}  // namespace nibble
