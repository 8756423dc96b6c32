#include "src/pipeline/divergence.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/divergence.h"
#include "src/model/model.h"
#include "src/pipeline/evaluate.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int64_t kLogitRows = 64;  // logits at a time: 64 x 128k x 2 x 4 bytes = 66 MB a thread

}  // namespace

std::vector<TokenDivergence> compare_logits(const Model& model, const Model::Head& head,
                                            const Matrix& x, const Model& reference,
                                            const Model::Head& reference_head,
                                            const Matrix& reference_x,
                                            std::span<const int32_t> targets) {
  std::vector<int64_t> scored;
  for (size_t i = 0; i < targets.size(); ++i) {
    if (targets[i] >= 0) scored.push_back(static_cast<int64_t>(i));
  }
  std::vector<TokenDivergence> result(scored.size());
  const auto count = static_cast<int64_t>(scored.size());
#pragma omp parallel for schedule(dynamic)
  for (int64_t first = 0; first < count; first += kLogitRows) {
    const int64_t rows = std::min(kLogitRows, count - first);
    Matrix part(rows, x.cols());
    Matrix reference_part(rows, reference_x.cols());
    for (int64_t r = 0; r < rows; ++r) {
      part.row(r) = x.row(scored[static_cast<size_t>(first + r)]);
      reference_part.row(r) = reference_x.row(scored[static_cast<size_t>(first + r)]);
    }
    const Matrix q = model.logits(head, part);
    const Matrix p = reference.logits(reference_head, reference_part);
    for (int64_t r = 0; r < rows; ++r) {
      const int32_t target = targets[static_cast<size_t>(scored[static_cast<size_t>(first + r)])];
      const std::span<const float> q_row(q.row(r).data(), static_cast<size_t>(q.cols()));
      const std::span<const float> p_row(p.row(r).data(), static_cast<size_t>(p.cols()));
      result[static_cast<size_t>(first + r)] = divergence(q_row, p_row, target);
    }
  }
  return result;
}

void DivergenceSums::add(const TokenDivergence& token) {
  reference_nll_ += token.reference_nll;
  kl_ += token.kl;
  agreed_ += token.same_top ? 1 : 0;
  kls_.push_back(static_cast<float>(token.kl));
}

EvaluateResult::Comparison DivergenceSums::summary() const {
  const auto n = static_cast<double>(kls_.size());
  EvaluateResult::Comparison comparison;
  comparison.reference_nll = reference_nll_ / n;
  comparison.reference_perplexity = std::exp(comparison.reference_nll);
  comparison.kl_divergence = kl_ / n;
  comparison.top1_agreement = static_cast<double>(agreed_) / n;
  std::vector<float> sorted = kls_;
  const auto rank = static_cast<int64_t>(std::ceil(0.99 * n)) - 1;  // nearest rank
  std::nth_element(sorted.begin(), sorted.begin() + rank, sorted.end());
  comparison.kl_p99 = static_cast<double>(sorted[static_cast<size_t>(rank)]);
  return comparison;
}

}  // namespace nibble
