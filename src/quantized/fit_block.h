// The parameters of one block: what fit_parameters does, block by block. Private to src/quantized.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

// Throws Error(where, ...) unless fit_parameters can fit the scheme by the rule.
void check_fittable(ConstMatrixRef W, const Scheme& scheme, const RangeRule& rule,
                    const std::string& where);

// A rule, and the parameters of a layer that it fills.
struct Fit {
  const RangeRule& rule;
  const Scheme& scheme;
  std::span<std::byte> scales;  // [blocks] of scheme.scale->type
  std::span<uint8_t> zeros;     // [blocks]; empty when symmetric
};

struct FitResult {
  FittedBlock block;
  bool raised = false;
  bool failed = false;  // NaN or infinity among the weights, or an infinite scale
};

// Stores the parameters of `block`, unless it failed.
FitResult fit_block(const Fit& fit, std::span<const float> weights, const Extremes& extremes,
                    int64_t block);

// Those of blockings whose blocks are not parts of single rows; fails on the first bad one.
// raised: counts blocks with FitResult::raised.
std::vector<FittedBlock> fit_blocks(const Fit& fit, ConstMatrixRef W, const ColumnOrder& order,
                                    const std::string& where, int64_t& raised);

// Throws the Error of a failed block: of NaN or infinity anywhere in W, else of its scale.
[[noreturn]] void fail(ConstMatrixRef W, const Scheme& scheme, int64_t block,
                       const std::string& where);

}  // namespace nibble
