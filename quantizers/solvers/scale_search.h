// Scales and zero points of groups of columns, chosen by the error of rounding to nearest with each
// of a number of shrunk ranges, stored types included: what is compared is what will be read back.
//
//   p = 1, 0.99, .. 0.21: range p * lo .. p * hi, by the rule "nibble" of
//   src/quantized/range_rule.h; the first p with the least error.
// Source: the search of GPTQ's code (Frantar et al. 2022), with errors |w - q|^2.4, is kMse.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quantizers/solvers/gptq_lanes.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"

namespace nibble {

enum class ScaleSearch {
  kMinMax,   // p = 1
  kMse,      // sum of |w - q|^2.4
  kHessian,  // sum of H_kk (w_k - q_k)^2: the output's error without the couplings of columns
};

// Fits groups of kLanes rows; owns the memory of its candidates, so one per thread.
class GroupFitter {
 public:
  // scheme: integer codes with a scale and perhaps a zero point in U8. storable: of the layer;
  // must outlive the fitter.
  GroupFitter(const Scheme& scheme, ScaleSearch search, const StorableScales& storable);

  struct Row {
    bool raised = false;  // the scale would have rounded to zero: took the smallest positive value
    bool failed = false;  // no candidate's scale is finite in its stored type
  };

  // weights: per column, [kLanes]; importance: [columns] H_kk; blocks: [kLanes] what the lanes are
  // of. scale, first (lowest level minus zero point): [kLanes], results. rows: [kLanes].
  void fit(std::span<const float* const> weights, std::span<const float> importance,
           std::span<const int64_t> blocks, float* scale, float* first, std::span<Row> rows);

 private:
  void list_candidates(std::span<const int64_t> blocks);
  void choose(float* scale, float* first, std::span<Row> rows) const;

  Scheme scheme_;
  ScaleSearch search_;
  const StorableScales& storable_;
  int64_t candidates_;         // a multiple of 4
  std::vector<float> low_;     // [kLanes] smallest weight or 0
  std::vector<float> high_;    // [kLanes] largest weight or 0
  std::vector<float> fitted_;  // [candidates][kLanes] scales before they are stored
  std::vector<float> scale_;   // [candidates][kLanes] as stored
  std::vector<float> first_;   // [candidates][kLanes]
  std::vector<float> error_;   // [candidates][kLanes]
};

}  // namespace nibble
