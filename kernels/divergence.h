// How far the next-token distribution of a model is from its reference's, from the logits of both.
#pragma once

#include <cstdint>
#include <span>

namespace nibble {

// One token, in nats; p is the reference's distribution, q the model's.
struct TokenDivergence {
  double nll = 0;            // -log q(target)
  double reference_nll = 0;  // -log p(target)
  double kl = 0;             // sum p log(p / q)
  bool same_top = false;     // the most likely token is the same
};

// q, p: logits [vocabulary] each. exp in float within 2 ulp, sums over blocks in float, between
// blocks in double: kl is exact to about 1e-7 nats, and exactly 0 for equal logits.
TokenDivergence divergence(std::span<const float> q, std::span<const float> p, int32_t target);

}  // namespace nibble
