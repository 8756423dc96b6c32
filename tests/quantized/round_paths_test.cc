// Every instruction-set path against the scalar one, in all bits.
#include "src/quantized/round_paths.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/range_rule.h"
#include "tests/quantized/layers.h"

namespace nibble {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Values near every tie of the rounding, huge, tiny and negative zero, then random ones.
std::vector<float> weights(size_t n) {
  std::vector<float> values = {0.F,   -0.F,   0.5F,  -0.5F,        1.5F,  -1.5F,     7.5F,
                               8.5F,  -8.5F,  1e30F, -1e30F,       3e38F, 0x1p-149F, -1e-40F,
                               15.5F, -0.25F, 2.5F,  0.499999970F, -7.5F};
  Sequence sequence(5);
  while (values.size() < n) values.push_back(sequence.uniform() * 20.F);
  values.resize(n);
  return values;
}

// Lengths around the vectors' widths, starting anywhere.
std::vector<nibble::Run> runs() {
  std::vector<nibble::Run> result;
  int64_t first = 0;
  for (int64_t length = 0; length < 70; ++length) {
    result.push_back({first, first + length, 0});
    first += length;
  }
  return result;
}

TEST(RoundPaths, ExtremesAreThoseOfTheScalarPath) {
  const std::vector<nibble::Run> all = runs();
  for (const float special : {0.F, kInfinity, -kInfinity, std::nanf("")}) {
    std::vector<float> values = weights(static_cast<size_t>(all.back().end));
    if (special != 0.F) {
      // One in each run, at a place that differs.
      for (const nibble::Run& run : all) {
        if (run.end > run.first) {
          values[static_cast<size_t>(run.first + run.end / 2 % (run.end - run.first))] = special;
        }
      }
    }
    std::vector<Extremes> expected(all.size());
    kScalarRound.extremes(values.data(), all, expected.data());
    for (const RoundPath* path : round_paths()) {
      std::vector<Extremes> got(all.size());
      path->extremes(values.data(), all, got.data());
      for (size_t r = 0; r < all.size(); ++r) {
        ASSERT_EQ(got[r].finite, expected[r].finite) << path->name << " run " << r;
        if (!expected[r].finite) continue;
        EXPECT_EQ(got[r].smallest, expected[r].smallest) << path->name << " run " << r;
        EXPECT_EQ(got[r].largest, expected[r].largest) << path->name << " run " << r;
      }
    }
    EXPECT_EQ(expected[20].finite, special == 0.F);
  }
}

TEST(RoundPaths, CodesAreThoseOfTheScalarPath) {
  const std::vector<nibble::Run> all = runs();
  std::vector<float> values = weights(static_cast<size_t>(all.back().end));
  values[100] = std::nanf("");
  values[101] = kInfinity;
  for (const int bits : {1, 2, 3, 4, 5, 8}) {
    const int last = (1 << bits) - 1;
    for (const int first : {0, -last, -(last + 1) / 2, 100, -100000}) {
      for (const float scale : {1.F, 0.37F, -2.F, 0x1p-149F, 0x1p-24F, 1e30F, 0.F}) {
        const std::vector<RoundRule> rules(all.size(), RoundRule{scale, first, last});
        std::vector<uint8_t> expected(values.size() + 1, 0xee);
        kScalarRound.round(values.data(), all, rules.data(), expected.data());
        for (const RoundPath* path : round_paths()) {
          std::vector<uint8_t> codes(values.size() + 1, 0xee);
          path->round(values.data(), all, rules.data(), codes.data());
          ASSERT_EQ(codes, expected) << path->name << " bits " << bits << " first " << first;
        }
      }
    }
  }
}

TEST(RoundPaths, TiesGoToEvenAndBoundsHold) {
  const std::vector<float> values = {0.5F, 1.5F, 2.5F, -0.5F, -1.5F, 7.5F, 100.F, -100.F};
  const std::vector<uint8_t> expected = {8, 10, 10, 8, 6, 15, 15, 0};
  const nibble::Run run = {0, 8, 0};
  const RoundRule rule = {1.F, -8, 15};
  for (const RoundPath* path : round_paths()) {
    std::vector<uint8_t> codes(8);
    path->round(values.data(), {&run, 1}, &rule, codes.data());
    EXPECT_EQ(codes, expected) << path->name;
  }
}

TEST(RoundPaths, WeightsAreThoseOfTheScalarPath) {
  Sequence sequence(9);
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool consecutive : {true, false}) {
      std::array<float, 256> values{};
      for (int i = 0; i < 1 << bits; ++i) {
        values[static_cast<size_t>(i)] =
            consecutive ? static_cast<float>(i - 3) : sequence.uniform();
      }
      const Levels levels = {values, bits, consecutive};
      for (const WeightRule& rule :
           {WeightRule{-0.3F, 0.F, 0.F, false}, WeightRule{0.7F, 2.F, 0.F, true},
            WeightRule{1e-3F, 1.25F, -0.5F, true}}) {
        for (size_t n = 0; n < 70; ++n) {
          std::vector<uint8_t> codes(n);
          for (uint8_t& code : codes) code = static_cast<uint8_t>(sequence.next() % (1U << bits));
          std::vector<float> expected(n + 1, 5.F);
          for (size_t i = 0; i < n; ++i) expected[i] = weight(rule, values[codes[i]]);
          for (const RoundPath* path : round_paths()) {
            std::vector<float> got(n + 1, 5.F);
            path->dequantize(codes, levels, rule, got.data());
            for (size_t i = 0; i <= n; ++i) {
              ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i]))
                  << path->name << " bits " << bits << " n " << n << " at " << i;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace nibble
