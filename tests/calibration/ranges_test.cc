// Every rule against a search that tries everything, on histograms of a few bins and on samples.
#include "calibration/ranges.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "calibration/histogram.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

// Bins of width 1 from `first` on, the extremes at the outer edges.
Histogram small_histogram(int64_t first, const std::vector<int64_t>& counts) {
  Histogram histogram;
  histogram.exponent = 0;
  histogram.first = first;
  histogram.counts = counts;
  histogram.counts.resize(Histogram::kBins);
  for (const int64_t count : counts) histogram.total += count;
  histogram.smallest = static_cast<float>(first);
  histogram.largest = static_cast<float>(first + std::ssize(counts));
  histogram.moving_smallest = histogram.smallest / 2.F;
  histogram.moving_largest = histogram.largest / 2.F;
  return histogram;
}

std::vector<Histogram> small_histograms() {
  std::vector<Histogram> all;
  std::mt19937 generator(4);
  for (int round = 0; round < 24; ++round) {
    std::vector<int64_t> counts(12 + round % 3 * 9);
    for (size_t i = 0; i < counts.size(); ++i) {
      const double center =
          std::abs(static_cast<double>(i) - static_cast<double>(counts.size()) / 2);
      counts[i] =
          static_cast<int64_t>(3000. * std::exp(-center)) + static_cast<int64_t>(generator() % 4);
      if (round % 4 == 3 && i % 3 == 0) counts[i] = 0;
    }
    ++counts.front();
    ++counts.back();
    all.push_back(small_histogram(-(round % 5) * 3, counts));
  }
  return all;
}

Histogram of_values(const std::vector<float>& values) {
  Histogram histogram;
  histogram.add(ConstMatrixMap(values.data(), 1, std::ssize(values)), "x");
  return histogram;
}

// Normal, with a few values far out.
std::vector<float> sample(size_t count, uint32_t seed, float outlier) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i)
    values[i] = normal(generator) * (i % 1000 == 0 ? outlier : 1.F);
  return values;
}

// x rounded to the grid that ranges.h states.
double rounded(double x, Range range, const RangeOptions& options) {
  const double steps = (1 << options.bits) - 1;
  const double step = (static_cast<double>(range.high) - range.low) / steps;
  if (step == 0.) return 0.;
  double lowest = -std::ldexp(1., options.bits - 1);
  if (!options.symmetric)
    lowest = -std::min(steps, std::max(0., std::nearbyint(-range.low / step)));
  return step * std::clamp(std::nearbyint(x / step), lowest, lowest + steps);
}

// The mean squared error by sums over `points` places in every bin.
double summed_error(const Histogram& histogram, Range range, const RangeOptions& options,
                    int points) {
  double sum = 0.;
  for (int64_t i = 0; i < Histogram::kBins; ++i) {
    const auto count = static_cast<double>(histogram.counts[static_cast<size_t>(i)]);
    if (count == 0.) continue;
    for (int p = 0; p < points; ++p) {
      const double x = histogram.edge(i) + histogram.width() * (p + .5) / points;
      sum += count / points * std::pow(x - rounded(x, range, options), 2);
    }
  }
  return sum / static_cast<double>(histogram.total);
}

TEST(Ranges, TheMeanSquaredErrorIsTheIntegral) {
  for (const Histogram& histogram : small_histograms()) {
    for (const RangeOptions& options : {RangeOptions{.bits = 2}, RangeOptions{.bits = 4},
                                        RangeOptions{.bits = 3, .symmetric = false},
                                        RangeOptions{.bits = 8, .symmetric = false}}) {
      for (const float part : {1.F, .7F, .3F}) {
        const float wide = part * std::max(-histogram.smallest, histogram.largest);
        const Range range = {options.symmetric ? -wide : part * std::min(0.F, histogram.smallest),
                             options.symmetric ? wide : part * std::max(0.F, histogram.largest)};
        const double expected = summed_error(histogram, range, options, 2000);
        // Midpoint sums of 2000 points are off by about (1 / 2000)^2 / 12 and the jumps of Q.
        EXPECT_NEAR(mean_square_error(histogram, range, options), expected, 1e-3 * expected + 1e-6);
      }
    }
  }
}

TEST(Ranges, MseIsTheBestOfAllEdges) {
  for (const Histogram& histogram : small_histograms()) {
    for (const int bits : {2, 3, 4, 8}) {
      const auto edges = static_cast<int>(std::max(-histogram.smallest, histogram.largest));
      double symmetric = std::numeric_limits<double>::infinity();
      double asymmetric = symmetric;
      for (int high = 0; high <= edges; ++high) {
        const auto h = static_cast<float>(high);
        symmetric = std::min(symmetric, mean_square_error(histogram, {-h, h}, {.bits = bits}));
        for (int low = 0; low <= -static_cast<int>(histogram.smallest); ++low) {
          if (h > std::max(0.F, histogram.largest)) continue;
          const Range range = {static_cast<float>(-low), h};
          asymmetric = std::min(
              asymmetric, mean_square_error(histogram, range, {.bits = bits, .symmetric = false}));
        }
      }
      RangeOptions options = {.bits = bits};
      Range found = find_range(RangeMethod::kMse, histogram, options);
      EXPECT_EQ(mean_square_error(histogram, found, options), symmetric);
      options.symmetric = false;
      found = find_range(RangeMethod::kMse, histogram, options);
      EXPECT_EQ(mean_square_error(histogram, found, options), asymmetric);
    }
  }
}

TEST(Ranges, MseOfManyBinsIsNoWorseThanACoarseSearchOfBothSides) {
  std::vector<float> values = sample(20000, 5, 8.F);
  for (float& value : values) value = value > 0.F ? value : .3F * value;
  const Histogram histogram = of_values(values);
  for (const int bits : {3, 4, 8}) {
    const RangeOptions options = {.bits = bits, .symmetric = false};
    const Range found = find_range(RangeMethod::kMse, histogram, options);
    const double error = mean_square_error(histogram, found, options);
    double least = std::numeric_limits<double>::infinity();
    for (int low = 1; low <= 48; ++low) {
      for (int high = 1; high <= 48; ++high) {
        const Range range = {histogram.smallest * static_cast<float>(low) / 48.F,
                             histogram.largest * static_cast<float>(high) / 48.F};
        least = std::min(least, mean_square_error(histogram, range, options));
      }
    }
    EXPECT_LE(error, least * 1.02) << bits;
    // And on the values themselves, rounded one by one.
    double exact = 0.;
    for (const float x : values) exact += std::pow(x - rounded(x, found, options), 2);
    EXPECT_NEAR(exact / static_cast<double>(values.size()) / error, 1., .03) << bits;
  }
}

// The steps of ModelOpt's _compute_amax_entropy, one after the other.
double reference_divergence(std::vector<double> counts, size_t kept, size_t runs) {
  std::vector<double> candidate(kept, 0.);
  for (size_t run = 0; run < runs; ++run) {
    std::vector<size_t> members;
    double sum = 0.;
    for (size_t i = 0; i < kept; ++i) {
      const bool is_here = i * runs >= run * kept && i * runs < (run + 1) * kept;
      if (!is_here || counts[i] == 0.) continue;
      members.push_back(i);
      sum += counts[i];
    }
    for (const size_t i : members) candidate[i] = sum / static_cast<double>(members.size());
  }
  for (size_t i = kept; i < counts.size(); ++i) counts[kept - 1] += counts[i];
  counts.resize(kept);
  double candidates = 0.;
  double references = 0.;
  for (size_t i = 0; i < kept; ++i) {
    candidates += candidate[i];
    references += counts[i];
  }
  double divergence = 0.;
  for (size_t i = 0; i < kept; ++i) {
    if (counts[i] == 0.) continue;
    divergence += counts[i] / references *
                  (std::log(counts[i] / references) - std::log(candidate[i] / candidates));
  }
  return divergence;  // infinite where a candidate is 0
}

TEST(Ranges, EntropyIsTheLastOfTheLeastDivergences) {
  std::vector<Histogram> histograms = small_histograms();
  histograms.push_back(of_values(sample(4000, 6, 5.F)));
  for (const Histogram& histogram : histograms) {
    for (const int bits : {2, 3, 8}) {
      std::vector<double> counts(Histogram::kBins + 1);
      for (int64_t i = 0; i < Histogram::kBins; ++i) {
        const double center = (histogram.edge(i) + histogram.edge(i + 1)) / 2. / histogram.width();
        counts[static_cast<size_t>(std::abs(center))] +=
            static_cast<double>(histogram.counts[static_cast<size_t>(i)]);
      }
      while (counts.back() == 0.) counts.pop_back();
      counts[0] = counts[1];
      const size_t runs = size_t{1} << (bits - 1);
      size_t best = counts.size();
      double least = std::numeric_limits<double>::infinity();
      for (size_t kept = runs; kept <= counts.size(); ++kept) {
        const double found = reference_divergence(counts, kept, runs);
        if (found <= least + 1e-15) best = kept;
        least = std::min(least, found);
      }
      const float wide = std::min(static_cast<float>(static_cast<double>(best) * histogram.width()),
                                  std::max(-histogram.smallest, histogram.largest));
      const Range range = find_range(RangeMethod::kEntropy, histogram, {.bits = bits});
      EXPECT_EQ(range.high, wide) << bits;
      EXPECT_EQ(range.low, -wide) << bits;
    }
  }
}

TEST(Ranges, EntropyOfOneSidedValuesIsThatOfTheirMagnitudes) {
  // Nothing below zero: asymmetric with b bits has as many levels as symmetric with b + 1.
  std::vector<float> values = sample(30000, 7, 6.F);
  for (float& value : values) value = std::abs(value);
  values[0] = 0.F;
  const Histogram histogram = of_values(values);
  for (const int bits : {3, 4, 7}) {
    const Range one =
        find_range(RangeMethod::kEntropy, histogram, {.bits = bits, .symmetric = false});
    const Range two = find_range(RangeMethod::kEntropy, histogram, {.bits = bits + 1});
    EXPECT_EQ(one.low, 0.F);
    EXPECT_EQ(one.high, two.high) << bits;
    EXPECT_LT(one.high, histogram.largest);
  }
}

TEST(Ranges, PercentileHoldsThatShareOfTheSample) {
  std::vector<float> values = sample(50000, 8, 20.F);
  const Histogram histogram = of_values(values);
  std::sort(values.begin(), values.end());
  std::vector<float> magnitudes = values;
  for (float& value : magnitudes) value = std::abs(value);
  std::sort(magnitudes.begin(), magnitudes.end());
  for (const double share : {99.99, 99.9, 99., 80., 100.}) {
    const auto at = [&](const std::vector<float>& sorted, double part) {
      const auto index = static_cast<size_t>(std::ceil(part * static_cast<double>(sorted.size())));
      return sorted[std::clamp<size_t>(index, 1, sorted.size()) - 1];
    };
    const Range both = find_range(RangeMethod::kPercentile, histogram, {.percentile = share});
    EXPECT_NEAR(both.high, at(magnitudes, share / 100.), histogram.width()) << share;
    EXPECT_EQ(both.low, -both.high);
    const Range sides =
        find_range(RangeMethod::kPercentile, histogram, {.symmetric = false, .percentile = share});
    const double cut = (1. - share / 100.) / 2.;
    EXPECT_NEAR(sides.low, at(values, cut), histogram.width()) << share;
    EXPECT_NEAR(sides.high, at(values, 1. - cut), histogram.width()) << share;
  }
}

TEST(Ranges, MinMaxAndMovingAverage) {
  const Histogram histogram = small_histogram(-4, {1, 0, 3, 9, 8, 2, 1, 1, 0, 1});
  const Range symmetric = find_range(RangeMethod::kMinMax, histogram, {});
  EXPECT_EQ(symmetric.low, -6.F);
  EXPECT_EQ(symmetric.high, 6.F);
  const Range asymmetric = find_range(RangeMethod::kMinMax, histogram, {.symmetric = false});
  EXPECT_EQ(asymmetric.low, -4.F);
  EXPECT_EQ(asymmetric.high, 6.F);
  EXPECT_EQ(find_range(RangeMethod::kMovingAverage, histogram, {}).high, 3.F);
  EXPECT_EQ(find_range(RangeMethod::kMovingAverage, histogram, {.symmetric = false}).low, -2.F);
}

TEST(Ranges, EveryRowKeepsZeroInsideAndStaysWithinTheExtremes) {
  std::set<std::string> names;
  std::vector<Histogram> histograms = small_histograms();
  histograms.push_back(of_values(std::vector<float>(5, 0.F)));
  histograms.push_back(of_values({-2.F}));
  histograms.push_back(of_values({3.F, 3.F, 4.F}));
  histograms.push_back(of_values({1e-40F, -1e-39F}));
  histograms.push_back(of_values(sample(5000, 9, 100.F)));
  for (const RangeMethodRow& row : range_methods()) {
    EXPECT_TRUE(names.emplace(row.name).second);
    EXPECT_FALSE(row.summary.empty());
    EXPECT_EQ(&range_method(std::string(row.name)), &row);
    EXPECT_EQ(&range_methods()[static_cast<size_t>(row.method)], &row);
    for (const Histogram& histogram : histograms) {
      for (const bool symmetric : {true, false}) {
        const Range range = find_range(row.method, histogram, {.bits = 4, .symmetric = symmetric});
        const float largest = std::max(std::abs(histogram.smallest), std::abs(histogram.largest));
        EXPECT_LE(range.low, 0.F) << row.name;
        EXPECT_GE(range.high, 0.F) << row.name;
        if (symmetric) {
          EXPECT_EQ(range.low, -range.high) << row.name;
          EXPECT_LE(range.high, largest) << row.name;
        } else {
          EXPECT_GE(range.low, std::min(0.F, histogram.smallest)) << row.name;
          EXPECT_LE(range.high, std::max(0.F, histogram.largest)) << row.name;
        }
        EXPECT_EQ(range.low == 0.F && range.high == 0.F, largest == 0.F) << row.name;
      }
    }
  }
}

TEST(Ranges, ClippingPaysOnlyWithOutliersAndFewBits) {
  const Histogram tails = of_values(sample(100000, 10, 10.F));
  for (const RangeMethod method : {RangeMethod::kMse, RangeMethod::kEntropy}) {
    EXPECT_LT(find_range(method, tails, {.bits = 4}).high, .5F * tails.largest);
  }
  std::vector<float> even(10000);
  for (size_t i = 0; i < even.size(); ++i) even[i] = static_cast<float>(i) / 5000.F - 1.F;
  const Histogram flat = of_values(even);
  EXPECT_GT(find_range(RangeMethod::kMse, flat, {.bits = 8}).high, .98F);
}

TEST(Ranges, WhatIsOutOfBoundsIsNamed) {
  const auto error = [](const Histogram& histogram, const RangeOptions& options) -> std::string {
    try {
      find_range(RangeMethod::kMinMax, histogram, options);
    } catch (const Error& found) {
      return found.what();
    }
    return "no error";
  };
  const Histogram histogram = of_values({1.F});
  EXPECT_THAT(error({}, {}), testing::HasSubstr("a range of no values"));
  EXPECT_THAT(error(histogram, {.bits = 1}), testing::HasSubstr("1 bits (expected 2 to 8)"));
  EXPECT_THAT(error(histogram, {.percentile = 50.}), testing::HasSubstr("percentile 50"));
  EXPECT_THAT(error(histogram, {.percentile = 100.5}), testing::HasSubstr("percentile 100.5"));
  try {
    range_method("mes");
    ADD_FAILURE();
  } catch (const Error& found) {
    EXPECT_STREQ(found.what(), "no range method 'mes' (did you mean 'mse'?)");
  }
}

}  // namespace
}  // namespace nibble
