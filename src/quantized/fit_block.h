// The parameters of one block: what fit_parameters does, block by block. Private to src/quantized.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
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

inline constexpr int64_t kNoBlock = std::numeric_limits<int64_t>::max();

struct FitCount {
  int64_t raised = 0;         // blocks whose scale would have been zero
  int64_t failed = kNoBlock;  // first with a weight that is not finite or an infinite scale

  void add(const FitCount& other) {
    raised += other.raised;
    failed = std::min(failed, other.failed);
  }
};

// Fits runs of a row, whole blocks with consecutive numbers, and stores their parameters.
// extremes, blocks: [runs].
FitCount fit_runs(const Fit& fit, const float* weights, std::span<const Run> runs,
                  const Extremes* extremes, FittedBlock* blocks);

// The same for blockings whose blocks are not parts of single rows: all blocks.
FitCount fit_blocks(const Fit& fit, ConstMatrixRef W, const ColumnOrder& order,
                    std::vector<FittedBlock>& blocks);

// Throws the Error of a failed block: of NaN or infinity anywhere in W, else of its scale.
[[noreturn]] void fail(ConstMatrixRef W, const Scheme& scheme, int64_t block,
                       const std::string& where);

}  // namespace nibble
