// Transforms: rows of one table, in the order shown to users. Each rewrites a block's weights
// before they are quantized without changing what the block computes.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "quantizers/transforms/scale_group.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct TransformOptions {
  std::optional<double> alpha = 0.8;  // of smoothquant; none: searched per group
  bool clip = true;                   // of awq with round to nearest
};

// Scales of one group, and how they were found, for the report.
struct FoundScales {
  Vector s;  // [K]
  std::string how;
  double score_before = 0;
  double score_after = 0;
};

struct Transform {
  std::string_view name;
  std::string_view summary;
  std::string_view source;    // paper
  bool scales_after_linears;  // also groups fed by a linear layer (values, up), not only by a norm
  // score: of awq's search; empty: the Hessian's.
  FoundScales (*find)(const ScaleGroup& group, const TransformOptions& options,
                      const GroupScore& score);
};

std::span<const Transform> transforms();
// Throws Error with the nearest name.
const Transform& transform(const std::string& name);

}  // namespace nibble
