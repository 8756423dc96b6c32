#include "kernels/divergence.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace nibble {
namespace {

struct Case {
  std::vector<float> q, p;
};

Case random_case(size_t vocabulary, double noise) {
  std::mt19937 random(static_cast<uint32_t>(vocabulary));
  std::normal_distribution<double> normal;
  Case result;
  for (size_t v = 0; v < vocabulary; ++v) {
    const double logit = 4 * normal(random) - 30;
    result.p.push_back(static_cast<float>(logit));
    result.q.push_back(static_cast<float>(logit + noise * normal(random)));
  }
  return result;
}

std::vector<double> log_softmax(const std::vector<float>& logits) {
  double sum = 0;
  const double top = *std::max_element(logits.begin(), logits.end());
  for (const float x : logits) sum += std::exp(x - top);
  std::vector<double> result;
  for (const float x : logits) result.push_back(x - top - std::log(sum));
  return result;
}

TEST(Divergence, EqualsFloat64) {
  for (const size_t vocabulary : {1U, 5U, 511U, 512U, 513U, 4096U, 50257U}) {
    const Case logits = random_case(vocabulary, 0.1);
    const std::vector<double> q = log_softmax(logits.q);
    const std::vector<double> p = log_softmax(logits.p);
    double kl = 0;
    for (size_t v = 0; v < vocabulary; ++v) kl += std::exp(p[v]) * (p[v] - q[v]);
    const auto target = static_cast<int32_t>(vocabulary / 2);
    const TokenDivergence got = divergence(logits.q, logits.p, target);
    // Float logits around -30 carry 2e-6 each; sums of 512 positive floats 512 * 6e-8 relative, at
    // worst.
    EXPECT_NEAR(got.nll, -q[static_cast<size_t>(target)], 1e-5) << vocabulary;
    EXPECT_NEAR(got.reference_nll, -p[static_cast<size_t>(target)], 1e-5) << vocabulary;
    EXPECT_NEAR(got.kl, kl, 1e-6) << vocabulary;
    const auto top = [](const std::vector<double>& x) {
      return std::max_element(x.begin(), x.end()) - x.begin();
    };
    EXPECT_EQ(got.same_top, top(q) == top(p));
  }
}

TEST(Divergence, OfEqualLogitsIsExactlyZero) {
  const Case logits = random_case(1000, 0.0);
  const TokenDivergence got = divergence(logits.p, logits.p, 7);
  EXPECT_EQ(got.kl, 0.0);
  EXPECT_EQ(got.nll, got.reference_nll);
  EXPECT_TRUE(got.same_top);
}

}  // namespace
}  // namespace nibble
