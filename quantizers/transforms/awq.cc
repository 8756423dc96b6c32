#include "quantizers/transforms/awq.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "quantizers/transforms/scale_group.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int kRatios = 20;
constexpr float kSmallestScale = 1e-4F;
constexpr int64_t kSampledRows = 256;
constexpr size_t kFinalists = 4;

// w_k: mean over all rows of |w| / the largest |w| of its group.
Vector relative_magnitudes(const ScaleGroup& group) {
  const int64_t K = group.inputs.H.rows();
  Eigen::VectorXd sum = Eigen::VectorXd::Zero(K);
  int64_t rows = 0;
  for (const ScaledLayer& layer : group.layers) {
    const Blocking& blocking = layer.scheme.blocking;
    const int64_t width =
        blocking.columns == kAll || blocking.flattened ? K : std::min(K, blocking.columns);
    rows += layer.W.rows();
    for (int64_t first = 0; first < K; first += width) {
      const auto columns = layer.W.middleCols(first, std::min(width, K - first)).cwiseAbs();
      const Vector inverse = columns.rowwise().maxCoeff().cwiseMax(1e-30F).cwiseInverse();
      const Matrix relative = inverse.asDiagonal() * columns;
      sum.segment(first, columns.cols()) += relative.cast<double>().colwise().sum().transpose();
    }
  }
  return (sum / static_cast<double>(std::max<int64_t>(1, rows))).cast<float>();
}

Vector scales_of(const Vector& x, const Vector& w, double ratio, bool duo) {
  const auto r = static_cast<float>(ratio);
  Vector s = x.array().pow(r).matrix();
  if (duo) s = s.cwiseQuotient((w.array().pow(1.F - r) + kSmallestScale).matrix());
  for (int64_t k = 0; k < s.size(); ++k) {
    s(k) = x(k) > 0.F && std::isfinite(s(k)) ? std::max(s(k), kSmallestScale) : 0.F;
  }
  float largest = 0.F;
  float smallest = INFINITY;
  for (int64_t k = 0; k < s.size(); ++k) {
    if (s(k) == 0.F) continue;
    largest = std::max(largest, s(k));
    smallest = std::min(smallest, s(k));
  }
  if (largest == 0.F) return Vector::Ones(s.size());
  const float middle = std::sqrt(largest * smallest);
  for (int64_t k = 0; k < s.size(); ++k) s(k) = s(k) == 0.F ? 1.F : s(k) / middle;
  return s;
}

// A layer of fewer rows whose codes are those of the same rows of the whole one.
ScaledLayer sample_rows(const ScaledLayer& layer) {
  const int64_t N = layer.W.rows();
  const bool by_row = layer.scheme.blocking.rows == 1 && !layer.scheme.blocking.flattened;
  if (N <= kSampledRows || !by_row) return layer;
  ScaledLayer sample = {
      .name = layer.name, .W = Matrix(kSampledRows, layer.W.cols()), .scheme = layer.scheme};
  for (int64_t i = 0; i < kSampledRows; ++i) {
    // One of every N / kSampledRows rows, at no fixed distance: heads repeat at one.
    const int64_t offset = (i * 40503 / 16) % (N / kSampledRows);
    sample.W.row(i) = layer.W.row(i * N / kSampledRows + offset);
  }
  return sample;
}

double score_of(std::span<const ScaledLayer> layers, const Matrix& H, const Vector& s) {
  return hessian_score(layers, H, rounded_with_scales(layers, s));
}

// Those that are worth all rows, in order: the identity and the best by a sample of the rows.
std::vector<AwqCandidate> finalists(const ScaleGroup& group, std::vector<AwqCandidate> candidates) {
  const auto has_many = [](const ScaledLayer& layer) { return layer.W.rows() > kSampledRows; };
  if (std::none_of(group.layers.begin(), group.layers.end(), has_many)) return candidates;
  std::vector<ScaledLayer> sample;
  for (const ScaledLayer& layer : group.layers) sample.push_back(sample_rows(layer));
  std::vector<std::pair<double, size_t>> ranks;
  for (size_t i = 1; i < candidates.size(); ++i) {
    const double score = score_of(sample, group.inputs.H, candidates[i].s);
    if (std::isfinite(score)) ranks.emplace_back(score, i);
  }
  std::sort(ranks.begin(), ranks.end());
  ranks.resize(std::min(ranks.size(), kFinalists));
  std::vector<size_t> kept = {0};
  for (const auto& [score, i] : ranks) kept.push_back(i);
  std::sort(kept.begin(), kept.end());
  std::vector<AwqCandidate> best;
  for (const size_t i : kept) best.push_back(std::move(candidates[i]));
  return best;
}

}  // namespace

std::vector<AwqCandidate> awq_candidates(const ScaleGroup& group) {
  const Vector x = tied_mean(group, group.inputs.mean_absolute);
  const Vector w = tied_mean(group, relative_magnitudes(group));
  std::vector<AwqCandidate> candidates = {{.s = Vector::Ones(x.size())}};
  for (const bool duo : {false, true}) {
    for (int i = duo ? 0 : 1; i < kRatios; ++i) {
      const double ratio = static_cast<double>(i) / kRatios;
      candidates.push_back({.s = scales_of(x, w, ratio, duo), .ratio = ratio, .duo = duo});
    }
  }
  return candidates;
}

AwqScales search_awq_scales(const ScaleGroup& group, const GroupScore& score) {
  std::vector<AwqCandidate> candidates = awq_candidates(group);
  if (!score) candidates = finalists(group, std::move(candidates));
  AwqScales best;
  for (AwqCandidate& candidate : candidates) {
    const double found = score ? score(rounded_with_scales(group.layers, candidate.s))
                               : score_of(group.layers, group.inputs.H, candidate.s);
    const bool is_first = best.s.size() == 0;
    if (is_first) {
      check_score(group, found);
      best.score_before = found;
    }
    if (!is_first && !(found < best.score_after)) continue;
    best.s = std::move(candidate.s);
    best.ratio = candidate.ratio;
    best.duo = candidate.duo;
    best.score_after = found;
  }
  return best;
}

}  // namespace nibble
