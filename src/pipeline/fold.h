// Fold: calibrated quantization, block by block, with two streams of activations beside each other:
// x through the layers as they were quantized so far, x0 through the original ones. Its state is
// the streams and one block.
//
// Recipe::correct_past makes good what the layers before did to the inputs
// (quantizers/solvers/correct_past.h); the residual stream's error is taken where the layer's
// outputs are added to it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "calibration/windows.h"
#include "quantizers/solvers/gptq.h"
#include "src/model/model.h"
#include "src/pipeline/plan.h"
#include "src/pipeline/recipe.h"

namespace nibble {

struct FoldedLayer {
  GptqResult gptq;
  double weight_error = 0;  // against the original weights, not the corrected ones
  double output_error = 0;  // likewise, on the inputs as the quantized past makes them
};

class Fold {
 public:
  Fold(const Model& model, const CalibrationWindows& windows, const Recipe& recipe);

  // Modules in the order of the model's layout, each once.
  FoldedLayer quantize(const PlannedModule& module);

 private:
  // Sums over tokens for the linear layers of one input group, divided by the tokens.
  struct Statistics {
    Matrix H;         // [K, K]
    Matrix drift;     // (X0 - X)'X / T [K, K], empty without correction
    Matrix residual;  // (R0 - R)'X / T [hidden, K], empty where outputs are not added to the stream
    Factorization factorization;
  };

  void enter_block(int64_t index);
  void leave_block();
  const Statistics& statistics(const LinearModule& module);
  Statistics collect(const LinearModule& module) const;
  Matrix corrected(const Matrix& W, const Statistics& statistics, const std::string& where) const;
  void replace(const LinearModule& module, const QuantizedLinear& q);

  const Model& model_;
  const Recipe& recipe_;
  Batch batch_;
  Matrix x_;   // [T, hidden]
  Matrix x0_;  // empty without correction
  int64_t block_index_ = -1;
  Block original_;
  Block quantized_;
  std::optional<InputGroup> group_;
  Statistics statistics_;
  std::vector<std::pair<LinearModule, PanelMatrix>> pending_;  // not true-sequential
};

}  // namespace nibble
