// Every instruction-set path gives the bits of the scalar one, which is tested against loops.
#include "quantizers/solvers/gptq_lanes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace nibble {
namespace {

struct Block {
  std::vector<float> coupling, target, from, scale, first;
  std::vector<const float*> scales, firsts;
  int64_t columns = 0;
};

constexpr int64_t kStride = 2 * kLanes;

// scale and first change every 16 columns.
Block random_block(int64_t columns, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Block block;
  block.columns = columns;
  const auto fill = [&](std::vector<float>& values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) values.push_back(normal(generator));
  };
  fill(block.coupling, columns * columns);
  for (float& c : block.coupling) c *= 0.2F;
  fill(block.target, columns * kStride);
  fill(block.from, columns * kStride);
  const int64_t groups = (columns + 15) / 16;
  for (int64_t i = 0; i < groups * kLanes; ++i) {
    block.scale.push_back(0.05F + std::fabs(normal(generator)));
    block.first.push_back(-static_cast<float>(generator() % 16));
  }
  for (int64_t k = 0; k < columns; ++k) {
    block.scales.push_back(block.scale.data() + k / 16 * kLanes);
    block.firsts.push_back(block.first.data() + k / 16 * kLanes);
  }
  return block;
}

struct Rounded {
  std::vector<float> change, level;
};

// table, borders: see ColumnBlock; empty: integers.
Rounded run(const LanePath& path, const Block& block, const std::vector<float>& table = {},
            const std::vector<float>& borders = {}) {
  Rounded out;
  out.change.resize(block.target.size());
  out.level.resize(block.target.size());
  path.round_columns({.columns = block.columns,
                      .rows_stride = kStride,
                      .coupling = block.coupling.data(),
                      .coupling_stride = block.columns,
                      .target = block.target.data(),
                      .from = block.from.data(),
                      .scale = block.scales.data(),
                      .first = block.firsts.data(),
                      .last = 15.F,
                      .levels = static_cast<int>(table.size()),
                      .level_values = table.data(),
                      .borders = borders.data(),
                      .change = out.change.data(),
                      .level = out.level.data()});
  return out;
}

bool same_bytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(GptqLanes, ColumnsAreRoundedOneAfterTheOther) {
  const Block block = random_block(37, 1);
  const Rounded got = run(kScalarLanes, block);
  for (int64_t r = 0; r < kLanes; ++r) {
    std::vector<float> change;
    for (int64_t k = 0; k < block.columns; ++k) {
      const auto at = static_cast<size_t>(k * kStride + r);
      float t = block.target[at];
      for (int64_t i = 0; i < k; ++i) {
        t += block.coupling[static_cast<size_t>(k * block.columns + i)] *
             change[static_cast<size_t>(i)];
      }
      const float low = block.firsts[static_cast<size_t>(k)][r];
      const float scale = block.scales[static_cast<size_t>(k)][r];
      const float level = std::min(std::max(std::nearbyint(t / scale), low), low + 15.F);
      change.push_back(block.from[at] - level * scale);
      ASSERT_EQ(got.level[at], level) << k << ", " << r;
      ASSERT_EQ(got.change[at], change.back()) << k << ", " << r;
    }
  }
}

TEST(GptqLanes, AllPathsRoundToTheSameBits) {
  for (const int64_t columns : {1, 3, 64, 128}) {
    const Block block = random_block(columns, static_cast<uint32_t>(columns));
    const Rounded expected = run(kScalarLanes, block);
    for (const LanePath* path : lane_paths()) {
      const Rounded got = run(*path, block);
      EXPECT_TRUE(same_bytes(got.level, expected.level)) << path->name << " " << columns;
      EXPECT_TRUE(same_bytes(got.change, expected.change)) << path->name << " " << columns;
    }
  }
}

const std::vector<float> kLevels = {-7.F, -3.F, -0.5F, 0.F, 2.F, 9.F};
const std::vector<float> kBorders = {-5.F, -1.75F, -0.25F, 1.F, 5.5F};

TEST(GptqLanes, TablesGiveTheNearestLevel) {
  Block block = random_block(1, 3);
  for (float& target : block.target) target *= 4.F;
  const Rounded got = run(kScalarLanes, block, kLevels, kBorders);
  for (int64_t r = 0; r < kLanes; ++r) {
    const auto at = static_cast<size_t>(r);
    const float x = block.target[at] / block.scales[0][r];
    float nearest = kLevels[0];
    for (const float level : kLevels) {
      if (std::fabs(x - level) <= std::fabs(x - nearest)) nearest = level;
    }
    EXPECT_EQ(got.level[at], nearest) << x;
    EXPECT_EQ(got.change[at], block.from[at] - nearest * block.scales[0][r]);
  }
}

TEST(GptqLanes, AllPathsRoundToTheSameLevels) {
  const Block block = random_block(40, 4);
  const Rounded expected = run(kScalarLanes, block, kLevels, kBorders);
  for (const LanePath* path : lane_paths()) {
    const Rounded got = run(*path, block, kLevels, kBorders);
    EXPECT_TRUE(same_bytes(got.level, expected.level)) << path->name;
    EXPECT_TRUE(same_bytes(got.change, expected.change)) << path->name;
  }
}

struct Search {
  Block weights;
  std::vector<const float*> columns;
  std::vector<float> importance, scale, first;
};

constexpr int64_t kCandidates = 8;

Search random_search(int64_t columns) {
  Search search;
  search.weights = random_block(columns, 7);
  std::mt19937 generator(8);
  for (int64_t k = 0; k < columns; ++k) {
    search.columns.push_back(search.weights.target.data() + k * kStride);
    search.importance.push_back(static_cast<float>(generator() % 100) / 10.F);
  }
  for (int64_t i = 0; i < kCandidates * kLanes; ++i) {
    search.scale.push_back(0.05F + static_cast<float>(generator() % 100) / 200.F);
    search.first.push_back(-static_cast<float>(generator() % 16));
  }
  return search;
}

std::vector<float> run(const LanePath& path, const Search& search, bool weighted) {
  std::vector<float> error(static_cast<size_t>(kCandidates * kLanes));
  path.search_group({.columns = search.weights.columns,
                     .weights = search.columns.data(),
                     .importance = weighted ? search.importance.data() : nullptr,
                     .candidates = kCandidates,
                     .scale = search.scale.data(),
                     .first = search.first.data(),
                     .last = 15.F,
                     .error = error.data()});
  return error;
}

TEST(GptqLanes, SearchErrorsAreThoseOfRounding) {
  const Search search = random_search(50);
  for (const bool weighted : {true, false}) {
    const std::vector<float> got = run(kScalarLanes, search, weighted);
    for (size_t i = 0; i < got.size(); ++i) {
      double expected = 0.;
      for (size_t k = 0; k < 50; ++k) {
        const double scale = search.scale[i];
        const double low = search.first[i];
        const double w = search.columns[k][i % kLanes];
        const double level = std::min(std::max(std::nearbyint(w / scale), low), low + 15.);
        const double difference = std::fabs(w - level * scale);
        expected += weighted ? double{search.importance[k]} * difference * difference
                             : std::pow(difference / scale, 2.4);
      }
      // Ties may go either way, which changes the square by at most scale^2 * 2^-22 per weight.
      EXPECT_NEAR(got[i], expected, 2e-5 * expected + 1e-6) << i << ", weighted " << weighted;
    }
  }
}

TEST(GptqLanes, AllPathsSearchWithTheSameBits) {
  for (const int64_t columns : {1, 64, 131}) {
    const Search search = random_search(columns);
    for (const bool weighted : {true, false}) {
      const std::vector<float> expected = run(kScalarLanes, search, weighted);
      for (const LanePath* path : lane_paths()) {
        EXPECT_TRUE(same_bytes(run(*path, search, weighted), expected))
            << path->name << " " << columns << " " << weighted;
      }
    }
  }
}

}  // namespace
}  // namespace nibble
