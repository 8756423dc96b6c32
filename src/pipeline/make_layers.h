// LayerMaker: the quantized layers of a plan, one by one in the order of the model: with
// calibration, a block is entered, its transforms are found, and each layer is solved on the
// statistics of its inputs.
//
// Recipe::correct_past makes good what the layers before did to the inputs
// (quantizers/solvers/correct_past.h). The guard compares with round to nearest on held-out
// windows and keeps what is better.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/format.h"
#include "src/pipeline/plan.h"
#include "src/pipeline/quantize.h"

namespace nibble {

class LayerMaker {
 public:
  // Reads the calibration data, if any; what users should know of them is added to the report.
  LayerMaker(const Plan& plan, QuantizeReport& report);
  ~LayerMaker();
  LayerMaker(const LayerMaker&) = delete;
  LayerMaker& operator=(const LayerMaker&) = delete;

  // Fills the module's row of the report.
  QuantizedLinear make(const PlannedModule& module);
  // Whether layers may be made in any order, also several at the same time: nothing is calibrated.
  bool in_any_order() const;
  // Norms and biases that transforms changed since the last call, as they are to be written.
  std::vector<NamedTensor> take_rewritten();

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace nibble
