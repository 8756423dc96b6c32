// Divergence of a model from its reference, token by token, from the last block's outputs of both:
// logits exist for a few rows at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/divergence.h"
#include "src/model/model.h"
#include "src/pipeline/evaluate.h"

namespace nibble {

// For every scored row (target >= 0) of x and reference_x [T, hidden], in order.
std::vector<TokenDivergence> compare_logits(const Model& model, const Model::Head& head,
                                            const Matrix& x, const Model& reference,
                                            const Model::Head& reference_head,
                                            const Matrix& reference_x,
                                            std::span<const int32_t> targets);

class DivergenceSums {
 public:
  void add(const TokenDivergence& token);
  EvaluateResult::Comparison summary() const;

 private:
  double reference_nll_ = 0;
  double kl_ = 0;
  int64_t agreed_ = 0;
  std::vector<float> kls_;  // for the percentile: 4 bytes a token
};

}  // namespace nibble
