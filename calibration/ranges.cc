// The antiderivative of (x - Q(x))^2 for a grid of step s and levels lowest s .. highest s is
//   F(x) = m s^3 / 12 + (x - m s)^3 / 3,  m = clamp(round(x / s), lowest, highest),
// so that a bin [a, b] has the mean error (F(b) - F(a)) / (b - a).
//
// Entropy: Migacz 2017, "8-bit inference with TensorRT", as in NVIDIA ModelOpt's
// calib/histogram.py: for each number i of leading bins of |x|, the reference P = those counts, the
// last with the mass of all beyond; the candidate Q = the counts of 2^(b-1) equal runs of the i
// bins, spread evenly over each run's bins that are not empty; of the i with the least
// KL(P, Q) the last. The bin at zero takes its neighbour's count first: zeros round to themselves
// whatever the range. Differs: asymmetric ranges have no source; here the bins of x itself between
// the extremes, cut at +-threshold, with 2^b runs.
#include "calibration/ranges.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "calibration/histogram.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

float magnitude(const Histogram& histogram) {
  return std::max(std::fabs(histogram.smallest), std::fabs(histogram.largest));
}

// Within the extremes, with 0; symmetric: as wide on both sides.
Range limited(const Histogram& histogram, double low, double high, bool symmetric) {
  if (symmetric) {
    const double wide = std::min(std::max(-low, high), double{magnitude(histogram)});
    return {static_cast<float>(-wide), static_cast<float>(wide)};
  }
  return {static_cast<float>(std::min(0., std::max(low, double{histogram.smallest}))),
          static_cast<float>(std::max(0., std::min(high, double{histogram.largest})))};
}

Range min_max(const Histogram& histogram, const RangeOptions& options) {
  return limited(histogram, histogram.smallest, histogram.largest, options.symmetric);
}

Range moving_average(const Histogram& histogram, const RangeOptions& options) {
  return limited(histogram, histogram.moving_smallest, histogram.moving_largest, options.symmetric);
}

// The value below which `count` of all values lie.
double value_at(const Histogram& histogram, double count) {
  double below = 0.;
  for (int64_t i = 0; i < std::ssize(histogram.counts); ++i) {
    const auto here = static_cast<double>(histogram.counts[static_cast<size_t>(i)]);
    if (here > 0. && below + here >= count) {
      return histogram.edge(i) + histogram.width() * std::max(0., count - below) / here;
    }
    below += here;
  }
  return histogram.largest;
}

// Counts of |x|: bin j holds j width <= |x| < (j + 1) width, up to which bin the edges may fall.
std::vector<int64_t> counts_of_magnitudes(const Histogram& histogram) {
  std::vector<int64_t> folded;
  for (int64_t i = 0; i < std::ssize(histogram.counts); ++i) {
    const int64_t count = histogram.counts[static_cast<size_t>(i)];
    if (count == 0) continue;
    const int64_t bin = histogram.first + i;
    const auto at = static_cast<size_t>(bin >= 0 ? bin : -1 - bin);
    if (at >= folded.size()) folded.resize(at + 1);
    folded[at] += count;
  }
  return folded;
}

Range percentile(const Histogram& histogram, const RangeOptions& options) {
  const auto total = static_cast<double>(histogram.total);
  const double kept = options.percentile / 100. * total;
  if (!options.symmetric) {
    const double cut = (total - kept) / 2.;
    return limited(histogram, value_at(histogram, cut), value_at(histogram, total - cut), false);
  }
  const std::vector<int64_t> folded = counts_of_magnitudes(histogram);
  double below = 0.;
  size_t bin = 0;
  while (bin + 1 < folded.size() && below + static_cast<double>(folded[bin]) < kept) {
    below += static_cast<double>(folded[bin++]);
  }
  const double share = std::min(1., (kept - below) / static_cast<double>(folded[bin]));
  const double wide = (static_cast<double>(bin) + share) * histogram.width();
  return limited(histogram, -wide, wide, true);
}

// Levels lowest .. highest, times the step.
struct StepGrid {
  StepGrid(Range range, const RangeOptions& options) {
    const double steps = (1 << options.bits) - 1;
    step = (static_cast<double>(range.high) - static_cast<double>(range.low)) / steps;
    if (options.symmetric) {
      lowest = -(1 << (options.bits - 1));
    } else if (step > 0.) {
      lowest = -std::clamp(std::nearbyint(-range.low / step), 0., steps);
    }
    highest = lowest + steps;
  }

  double integral(double x) const {
    if (step == 0.) return x * x * x / 3.;
    const double level = std::clamp(std::nearbyint(x / step), lowest, highest);
    const double rest = x - level * step;
    return level * step * step * step / 12. + rest * rest * rest / 3.;
  }
  double square(double x) const {
    if (step == 0.) return x * x;
    const double rest = x - std::clamp(std::nearbyint(x / step), lowest, highest) * step;
    return rest * rest;
  }

  double step = 0.;
  double lowest = 0.;
  double highest = 0.;
};

// How many bins from zero to the extremes, and the range that so many bins make.
struct EdgeRanges {
  explicit EdgeRanges(const Histogram& of)
      : histogram(of), below(bins(-of.smallest)), above(bins(of.largest)) {}

  int64_t bins(float extreme) const {
    return static_cast<int64_t>(std::ceil(std::max(0., extreme / histogram.width())));
  }
  Range range(int64_t low, int64_t high, bool symmetric) const {
    const double width = histogram.width();
    return limited(histogram, -width * static_cast<double>(low), width * static_cast<double>(high),
                   symmetric);
  }

  const Histogram& histogram;
  int64_t below;
  int64_t above;
};

// The best of tried ranges, in bins; the first of equals.
struct BestEdges {
  int64_t low = 0;
  int64_t high = 0;
  double error = std::numeric_limits<double>::infinity();
};

// All edges of one side. Two sides: all pairs of edges where they are at most kPairs, else a
// coarser grid of pairs, and then, step halved time and again, the neighbours of the best.
Range least_square_error(const Histogram& histogram, const RangeOptions& options) {
  constexpr int64_t kPairs = 1024;
  const EdgeRanges edges(histogram);
  BestEdges best;
  const auto attempt = [&](int64_t low, int64_t high) {
    const Range range = edges.range(low, high, options.symmetric);
    const double error = mean_square_error(histogram, range, options);
    if (error < best.error) best = {low, high, error};
  };
  if (options.symmetric) {
    for (int64_t wide = std::max(edges.below, edges.above); wide >= 0; --wide) attempt(wide, wide);
    return edges.range(best.low, best.high, true);
  }
  int64_t step = 1;
  while ((edges.below / step + 1) * (edges.above / step + 1) > kPairs) step *= 2;
  for (int64_t low = edges.below; low > -step; low -= step) {
    for (int64_t high = edges.above; high > -step; high -= step) {
      attempt(std::max<int64_t>(0, low), std::max<int64_t>(0, high));
    }
  }
  for (step /= 2; step > 0; step /= 2) {
    const BestEdges center = best;
    for (const int64_t low : {center.low - step, center.low, center.low + step}) {
      for (const int64_t high : {center.high - step, center.high, center.high + step}) {
        attempt(std::clamp<int64_t>(low, 0, edges.below),
                std::clamp<int64_t>(high, 0, edges.above));
      }
    }
  }
  return edges.range(best.low, best.high, false);
}

// KL(P, Q) of bins [first, end) against their rounding to `runs` levels; infinite where P has mass
// and Q has none.
double divergence(std::span<const int64_t> counts, size_t first, size_t end, size_t runs) {
  const size_t bins = end - first;
  std::vector<double> P(counts.begin() + static_cast<int64_t>(first),
                        counts.begin() + static_cast<int64_t>(end));
  std::vector<double> mass(runs);
  std::vector<double> filled(runs);
  for (size_t i = 0; i < bins; ++i) {
    if (P[i] == 0.) continue;
    mass[i * runs / bins] += P[i];
    filled[i * runs / bins] += 1.;
  }
  const double inside = std::accumulate(P.begin(), P.end(), 0.);
  P.front() += static_cast<double>(
      std::accumulate(counts.begin(), counts.begin() + static_cast<int64_t>(first), int64_t{0}));
  P.back() += static_cast<double>(
      std::accumulate(counts.begin() + static_cast<int64_t>(end), counts.end(), int64_t{0}));
  const double total = std::accumulate(P.begin(), P.end(), 0.);
  double sum = 0.;
  for (size_t i = 0; i < bins; ++i) {
    if (P[i] == 0.) continue;
    if (counts[first + i] == 0) return std::numeric_limits<double>::infinity();
    const double Q = mass[i * runs / bins] / filled[i * runs / bins] / inside;
    sum += P[i] / total * std::log(P[i] / total / Q);
  }
  return sum;
}

Range least_divergence(const Histogram& histogram, const RangeOptions& options) {
  const EdgeRanges edges(histogram);
  const bool symmetric = options.symmetric;
  const int64_t below = symmetric ? 0 : edges.below;
  std::vector<int64_t> counts =
      symmetric ? counts_of_magnitudes(histogram) : std::vector<int64_t>();
  if (!symmetric) {  // bins -below .. above - 1
    counts.resize(static_cast<size_t>(below + edges.above));
    for (int64_t i = 0; i < std::ssize(histogram.counts); ++i) {
      const int64_t count = histogram.counts[static_cast<size_t>(i)];
      const int64_t at = std::min(histogram.first + i + below, std::ssize(counts) - 1);
      if (count > 0 && at >= 0) counts[static_cast<size_t>(at)] += count;
    }
  }
  const int64_t above = std::ssize(counts) - below;
  if (above > 1) counts[static_cast<size_t>(below)] = counts[static_cast<size_t>(below) + 1];
  const size_t runs = size_t{1} << (options.bits - (symmetric ? 1 : 0));
  int64_t best = std::max(below, above);
  double least = std::numeric_limits<double>::infinity();
  for (int64_t threshold = best; threshold > 0; --threshold) {
    const auto first = static_cast<size_t>(below - std::min(below, threshold));
    const auto end = static_cast<size_t>(below + std::min(above, threshold));
    if (end - first < runs) break;
    const double found = divergence(counts, first, end, runs);
    if (found < least) {
      least = found;
      best = threshold;
    }
  }
  return edges.range(best, best, symmetric);
}

constexpr std::array<RangeMethodRow, 5> kRangeMethods = {{
    {.method = RangeMethod::kMinMax,
     .name = "minmax",
     .summary = "the extremes of all values",
     .source = "-",
     .find = min_max},
    {.method = RangeMethod::kMovingAverage,
     .name = "moving-average",
     .summary = "moving average of the extremes of batches, 0.9 of the old each time",
     .source = "Jacob et al. 2018, arXiv 1712.05877, section 3.1",
     .find = moving_average},
    {.method = RangeMethod::kPercentile,
     .name = "percentile",
     .summary = "holds 99.99 % of the values",
     .source = "Wu et al. 2020, arXiv 2004.09602, section 4.2",
     .find = percentile},
    {.method = RangeMethod::kMse,
     .name = "mse",
     .summary = "least mean squared error of rounding",
     .source = "-",
     .find = least_square_error},
    {.method = RangeMethod::kEntropy,
     .name = "entropy",
     .summary = "least KL divergence of the rounded distribution",
     .source = "Migacz 2017, TensorRT",
     .find = least_divergence},
}};

}  // namespace

double mean_square_error(const Histogram& histogram, Range range, const RangeOptions& options) {
  const StepGrid grid(range, options);
  double sum = 0.;
  for (int64_t i = 0; i < std::ssize(histogram.counts); ++i) {
    const int64_t count = histogram.counts[static_cast<size_t>(i)];
    if (count == 0) continue;
    const double low = std::max(histogram.edge(i), double{histogram.smallest});
    const double high = std::min(histogram.edge(i + 1), double{histogram.largest});
    const double mean =
        low < high ? (grid.integral(high) - grid.integral(low)) / (high - low) : grid.square(low);
    sum += static_cast<double>(count) * mean;
  }
  return sum / static_cast<double>(histogram.total);
}

std::span<const RangeMethodRow> range_methods() { return kRangeMethods; }

const RangeMethodRow& range_method(const std::string& name) {
  std::vector<std::string> known;
  std::string list;
  for (const RangeMethodRow& row : kRangeMethods) {
    if (row.name == name) return row;
    known.emplace_back(row.name);
    list += (list.empty() ? "" : ", ") + known.back();
  }
  const std::string nearest = nearest_name(name, known);
  throw Error("", "no range method '" + name + "'",
              nearest.empty() ? "known: " + list : "did you mean '" + nearest + "'?");
}

Range find_range(RangeMethod method, const Histogram& histogram, const RangeOptions& options) {
  if (histogram.total == 0) throw Error("", "a range of no values");
  if (options.bits < 2 || options.bits > 8) {
    throw Error("", "a range for " + std::to_string(options.bits) + " bits", "expected 2 to 8");
  }
  if (!(options.percentile > 50. && options.percentile <= 100.)) {
    throw Error("", "percentile " + std::to_string(options.percentile),
                "expected more than 50 and at most 100");
  }
  return kRangeMethods[static_cast<size_t>(method)].find(histogram, options);
}

}  // namespace nibble
