// Against every way to cut small sets of numbers, tried one by one.
#include "quantizers/solvers/line_clusters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <utility>
#include <vector>

namespace nibble {
namespace {

double loss(const std::vector<float>& values, const std::vector<float>& weights,
            const std::vector<double>& centers) {
  double total = 0.;
  for (size_t i = 0; i < values.size(); ++i) {
    double least = std::numeric_limits<double>::infinity();
    for (const double center : centers) least = std::min(least, std::pow(values[i] - center, 2));
    total += (weights.empty() ? 1. : weights[i]) * least;
  }
  return total;
}

// The least loss of the sorted values from `first` on, in at most `clusters` intervals.
double least_loss(const std::vector<std::pair<float, float>>& sorted, size_t first, int clusters) {
  if (first == sorted.size()) return 0.;
  if (clusters == 0) return std::numeric_limits<double>::infinity();
  double least = std::numeric_limits<double>::infinity();
  for (size_t end = first + 1; end <= sorted.size(); ++end) {
    double weight = 0.;
    double sum = 0.;
    for (size_t i = first; i < end; ++i) {
      weight += sorted[i].second;
      sum += static_cast<double>(sorted[i].second) * sorted[i].first;
    }
    double own = 0.;
    for (size_t i = first; i < end && weight > 0.; ++i) {
      own += sorted[i].second * std::pow(sorted[i].first - sum / weight, 2);
    }
    least = std::min(least, own + least_loss(sorted, end, clusters - 1));
  }
  return least;
}

struct Numbers {
  std::vector<float> values;
  std::vector<float> weights;
};

// Some values equal, some weights zero.
Numbers random_numbers(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Numbers numbers;
  for (size_t i = 0; i < count; ++i) {
    const float value = normal(generator);
    numbers.values.push_back(i % 3 == 0 ? std::round(4.F * value) / 4.F : value);
    numbers.weights.push_back(i % 7 == 6 ? 0.F : std::exp(normal(generator)));
  }
  return numbers;
}

TEST(LineClusters, TheOptimumIsThatOfAllCuts) {
  LineClusters line;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const auto [values, weights] = random_numbers(4 + seed % 9, seed);
    std::vector<std::pair<float, float>> sorted;
    for (size_t i = 0; i < values.size(); ++i) sorted.emplace_back(values[i], weights[i]);
    std::sort(sorted.begin(), sorted.end());
    line.load(values, weights);
    for (int clusters = 1; clusters <= 6; ++clusters) {
      const std::vector<double> centers = line.optimum(clusters);
      EXPECT_TRUE(std::is_sorted(centers.begin(), centers.end()));
      EXPECT_EQ(std::ssize(centers), std::min<int64_t>(clusters, line.distinct()));
      const double expected = least_loss(sorted, 0, clusters);
      // Sums of a dozen numbers of about 1.
      EXPECT_NEAR(loss(values, weights, centers), expected, 1e-13) << seed << " " << clusters;
      EXPECT_NEAR(line.loss(centers), expected, 1e-13) << seed << " " << clusters;
    }
  }
}

TEST(LineClusters, TheOptimumOfManyIsAFixedPointThatSeedsDoNotBeat) {
  LineClusters line;
  for (const size_t count : {size_t{600}, size_t{5000}}) {
    const auto [values, weights] = random_numbers(count, 5);
    line.load(values, weights);
    for (const int64_t clusters : {2, 7, 16, 64}) {
      const std::vector<double> best = line.optimum(clusters);
      EXPECT_NEAR(line.loss(best) / loss(values, weights, best), 1., 1e-9);
      // Each center is the mean of what is nearest to it.
      std::vector<double> sums(best.size());
      std::vector<double> totals(best.size());
      for (size_t i = 0; i < values.size(); ++i) {
        size_t near = 0;
        for (size_t c = 1; c < best.size(); ++c) {
          if (std::abs(values[i] - best[c]) < std::abs(values[i] - best[near])) near = c;
        }
        sums[near] += static_cast<double>(weights[i]) * values[i];
        totals[near] += weights[i];
      }
      for (size_t c = 0; c < best.size(); ++c) {
        EXPECT_NEAR(best[c], sums[c] / totals[c], 1e-9) << count << " " << clusters << " " << c;
      }
      const std::vector<double> seeded = line.best_of_seeds(clusters, 8, 1);
      EXPECT_EQ(std::ssize(seeded), clusters);
      EXPECT_LE(line.loss(best), line.loss(seeded) * (1. + 1e-12));
      EXPECT_LT(line.loss(seeded), line.loss(best) * 1.35) << count << " " << clusters;
    }
  }
}

TEST(LineClusters, MoreStartsAreNoWorseAndASeedRepeats) {
  LineClusters line;
  const auto [values, weights] = random_numbers(800, 9);
  line.load(values, weights);
  double last = std::numeric_limits<double>::infinity();
  for (const int64_t starts : {1, 2, 4, 16}) {
    const std::vector<double> centers = line.best_of_seeds(16, starts, 3);
    EXPECT_EQ(centers, line.best_of_seeds(16, starts, 3));
    EXPECT_LE(line.loss(centers), last);
    last = line.loss(centers);
  }
  EXPECT_NE(line.best_of_seeds(16, 1, 3), line.best_of_seeds(16, 1, 4));
}

TEST(LineClusters, SeedsAreDrawnInProportionToTheirSquaredDistance) {
  LineClusters line;
  line.load(std::vector<float>{0.F, 1.F, 2.2F}, std::vector<float>{1.F, 1.F, 1.F});
  std::map<double, int> found;
  for (uint64_t seed = 0; seed < 2000; ++seed) ++found[line.best_of_seeds(2, 1, seed)[0]];
  // Fixed points {0 | 1, 2.2} (loss .72) and {0, 1 | 2.2} (loss .5). Seeds 0 and 1: 1 | 2.2 nearer
  // to 1, then {0 | 1, 2.2}. Seeds 0 and 2.2: 1 is nearer to 0. Seeds 1 and 2.2: 0 and 1 together.
  // P(0, 1) = (1/3) 1 / (1 + 4.84) + (1/3) 1 / (1 + 1.44) = .0571 + .1366 = .194.
  ASSERT_EQ(found.size(), 2U);
  const double share = found[0.] / 2000.;
  EXPECT_NEAR(share, .194, 4. * std::sqrt(.194 * .806 / 2000.));  // four standard deviations
}

TEST(LineClusters, FewDistinctValuesAreTheCentersThemselves) {
  LineClusters line;
  line.load(std::vector<float>{2.F, -1.F, 2.F, -0.F, 0.F, 7.F},
            std::vector<float>{1.F, 1.F, 1.F, 1.F, 1.F, 0.F});
  EXPECT_EQ(line.distinct(), 3);
  EXPECT_EQ(line.optimum(4), (std::vector<double>{-1., 0., 2.}));
  EXPECT_EQ(line.best_of_seeds(3, 1, 0), (std::vector<double>{-1., 0., 2.}));
  EXPECT_EQ(line.optimum(1), (std::vector<double>{3. / 5.}));
  line.load(std::vector<float>{4.F, 2.F}, std::vector<float>{0.F, 0.F});
  EXPECT_EQ(line.optimum(1), (std::vector<double>{3.}));  // no weight at all: all alike
}

TEST(LineClusters, EmptyClustersAreFilled) {
  // Heavy repeats and far outliers: runs of Lloyd lose clusters on the way.
  LineClusters line;
  std::vector<float> values;
  std::vector<float> weights;
  for (int i = 0; i < 400; ++i) {
    values.push_back(static_cast<float>(i % 20) + (i % 40 == 0 ? 1e4F : 0.F));
    weights.push_back(i % 3 == 0 ? 1e-6F : 1.F);
  }
  line.load(values, weights);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::vector<double> centers = line.best_of_seeds(12, 1, seed);
    ASSERT_EQ(std::ssize(centers), 12);
    for (size_t c = 1; c < centers.size(); ++c) ASSERT_LT(centers[c - 1], centers[c]) << seed;
  }
}

TEST(LineClusters, ManyValuesShareCellsAtNoLoss) {
  // 100,000 values of 24 bits: cells of 2^-12 of a value; borders inside them gain nothing.
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(100000);
  for (float& value : values) value = normal(generator);
  LineClusters line;
  line.load(values, {});
  EXPECT_LT(line.distinct(), 65536);
  const double whole = loss(values, {}, line.optimum(8));
  EXPECT_NEAR(line.loss(line.optimum(8)) / whole, 1., 1e-6);
  // The same values, BF16 apart: a cell each, so the sums are those of the sorted ones.
  std::vector<float> coarse(values.begin(), values.begin() + 60000);
  for (float& value : coarse) value = std::round(value * 64.F) / 64.F;
  line.load(coarse, {});
  const std::vector<double> sorted = line.optimum(16);
  const int64_t distinct = line.distinct();
  coarse.insert(coarse.end(), coarse.begin(), coarse.begin() + 60000);
  line.load(coarse, {});
  EXPECT_EQ(line.distinct(), distinct);
  const std::vector<double> celled = line.optimum(16);
  for (size_t c = 0; c < celled.size(); ++c) EXPECT_NEAR(celled[c], sorted[c], 1e-12) << c;
}

}  // namespace
}  // namespace nibble
