// ScoreLogits by the block executor against float64.
#include "kernels/cuda/score_logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tests/kernels/cuda/executor.h"
#include "tests/kernels/cuda/value_types.h"

namespace nibble {
namespace {

using Access = GlobalMemory::Access;

struct Scores {
  std::vector<LogitSums> q, p;
  std::vector<float> weighted;
};

// Logits [rows, vocabulary], a chunk at a time as a forward pass gives them.
Scores score(const std::vector<float>& q, const std::vector<float>& p,
             const std::vector<int32_t>& targets, int vocabulary, int chunk) {
  const size_t rows = targets.size();
  GlobalMemory memory;
  ScoreLogits::Arguments a;
  a.targets = memory.input(std::span(targets));
  a.q_sums = memory.allocate<LogitSums>(rows, Access::kOutput);
  if (!p.empty()) {
    a.p_sums = memory.allocate<LogitSums>(rows, Access::kOutput);
    a.weighted = memory.allocate<float>(rows, Access::kOutput);
  }
  a.stride = vocabulary;
  const float* q_logits = memory.input(std::span(q));
  const float* p_logits = p.empty() ? nullptr : memory.input(std::span(p));
  for (a.first = 0; a.first < vocabulary; a.first += chunk) {
    a.columns = std::min(chunk, vocabulary - a.first);
    a.q = q_logits + a.first;
    if (!p.empty()) a.p = p_logits + a.first;
    EXPECT_EQ(execute({static_cast<int>(rows), ScoreLogits::kThreads, ScoreLogits::kSharedBytes},
                      memory, [&](const Lane& lane) { ScoreLogits::run(lane, a); }),
              "");
  }
  Scores result{{a.q_sums, a.q_sums + rows}, {}, {}};
  if (!p.empty()) {
    result.p = {a.p_sums, a.p_sums + rows};
    result.weighted = {a.weighted, a.weighted + rows};
  }
  return result;
}

constexpr int kVocabulary = 1500, kRows = 3;
const std::vector<int32_t> kTargets = {0, 700, 1499};

double log_sum(const float* logits) {
  double sum = 0;
  for (int i = 0; i < kVocabulary; ++i) sum += std::exp(static_cast<double>(logits[i]));
  return std::log(sum);
}
double log_sum(const LogitSums& s) { return s.largest + std::log(static_cast<double>(s.sum)); }

// Sums of positive terms: up to 6 values a thread and chunk, 13 partial sums, 2 roundings a chunk;
// each exponential of up to 20 octaves, off by half an ulp of its argument twice and 2 ulp.
constexpr double kSumError = (6 + 13 + 2 * 15 + 2 * 20 + 2) * 0x1p-24;

TEST(ScoreLogits, SumsChunksAsIfTheyWereOne) {
  const auto q = random_values<float>(kRows * kVocabulary, 1, 3.F);
  for (const int chunk : {100, 700, kVocabulary}) {
    const Scores scores = score(q, {}, kTargets, kVocabulary, chunk);
    for (int row = 0; row < kRows; ++row) {
      const float* logits = &q[static_cast<size_t>(row) * kVocabulary];
      const float* top = std::max_element(logits, logits + kVocabulary);
      EXPECT_EQ(scores.q[row].largest, *top);
      EXPECT_EQ(scores.q[row].top, static_cast<float>(top - logits));
      EXPECT_EQ(scores.q[row].target, logits[kTargets[row]]);
      EXPECT_NEAR(log_sum(scores.q[row]), log_sum(logits), kSumError);
    }
  }
}

TEST(ScoreLogits, FirstOfEqualTops) {
  std::vector<float> q(kRows * kVocabulary, 0.F);
  q[300] = q[900] = q[901] = 2.F;
  const Scores scores = score(q, {}, kTargets, kVocabulary, 500);
  EXPECT_EQ(scores.q[0].top, 300.F);
  EXPECT_EQ(scores.q[1].top, 0.F);
}

TEST(ScoreLogits, DivergenceFromAReference) {
  const auto p = random_values<float>(kRows * kVocabulary, 1, 3.F);
  auto q = random_values<float>(kRows * kVocabulary, 2, 0.1F);
  for (size_t i = 0; i < q.size(); ++i) q[i] += p[i];
  const Scores scores = score(q, p, kTargets, kVocabulary, 400);
  for (int row = 0; row < kRows; ++row) {
    const float* lq = &q[static_cast<size_t>(row) * kVocabulary];
    const float* lp = &p[static_cast<size_t>(row) * kVocabulary];
    const double q_norm = log_sum(lq), p_norm = log_sum(lp);
    double kl = 0, terms = 0;
    for (int i = 0; i < kVocabulary; ++i) {
      const double probability = std::exp(lp[i] - p_norm);
      kl += probability * (lp[i] - p_norm - lq[i] + q_norm);
      terms += probability * std::abs(static_cast<double>(lp[i]) - lq[i]);
    }
    const double got = static_cast<double>(scores.weighted[row]) / scores.p[row].sum -
                       (log_sum(scores.p[row]) - log_sum(scores.q[row]));
    EXPECT_NEAR(got, kl, kSumError * (2 * terms + 2));
  }
}

TEST(ScoreLogits, EqualLogitsDivergeByNothing) {
  const auto p = random_values<float>(kRows * kVocabulary, 1, 5.F);
  const Scores scores = score(p, p, kTargets, kVocabulary, 333);
  for (int row = 0; row < kRows; ++row) {
    EXPECT_EQ(scores.weighted[row], 0.F);
    EXPECT_EQ(scores.q[row].sum, scores.p[row].sum);
    EXPECT_EQ(scores.q[row].largest, scores.p[row].largest);
  }
}

}  // namespace
}  // namespace nibble
