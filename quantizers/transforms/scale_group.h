// ScaleGroup: linear layers that share their input, as a search for scales sees them. A transform
// chooses s [K]: the columns of the weights are multiplied by s and the inputs divided by it, which
// changes what rounding does and not what the layers compute.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "calibration/stats.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct ScaledLayer {
  std::string name;  // module, for messages
  Matrix W;          // [N, K]
  Scheme scheme;
};

struct ScaleGroup {
  std::vector<ScaledLayer> layers;  // all that read the input, or the block's function changes
  InputStatistics inputs;
  // [K] inputs with the same number share a scale: those of the query heads that read one key and
  // value head. Empty: each has its own.
  std::vector<int32_t> tied;
};

// The error that weights of the group's layers [N, K] make instead of W, in any unit.
using GroupScore = std::function<double(std::span<const Matrix> weights)>;

// What rounding to nearest makes of the layers' weights with scales s [K]: Q(W s) / s.
std::vector<Matrix> rounded_with_scales(std::span<const ScaledLayer> layers, const Vector& s);

// Sum over the layers of tr((W - V) H (W - V)'), V the weights [N, K] taken instead of W: the error
// of the outputs per token. H [K, K].
double hessian_score(std::span<const ScaledLayer> layers, ConstMatrixRef H,
                     std::span<const Matrix> weights);

// Throws Error naming the group where the score of its weights without scales is no number.
void check_score(const ScaleGroup& group, double score);

// Each value replaced by the mean (or largest) of those tied to it.
Vector tied_mean(const ScaleGroup& group, const Vector& values);
Vector tied_largest(const ScaleGroup& group, const Vector& values);

}  // namespace nibble
