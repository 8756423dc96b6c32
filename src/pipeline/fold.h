// Fold: the inputs of every linear layer from calibration windows, block by block, with two streams
// of activations beside each other: x through the layers as they were quantized so far, x0 through
// the original ones. Its state is the streams and one block.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "calibration/windows.h"
#include "src/model/model.h"
#include "src/pipeline/block_inputs.h"

namespace nibble {

struct FoldOptions {
  bool keep_original = true;    // the stream x0, for the correction of the quantized past
  bool true_sequential = true;  // layers replaced are seen by the later ones of their block
  bool histograms = false;      // of the fitted inputs, for ranges of static activations
  bool hold_out = false;        // every 8th window goes to GroupInputs::held_out
};

class Fold : public BlockInputs {
 public:
  // Throws Error when no window would be left to fit by.
  Fold(const Model& model, const CalibrationWindows& windows, const FoldOptions& options);

  void enter(int64_t block) override;
  GroupInputs collect(InputGroup group) override;
  // Throws Error when the block's output changes by more than rounding.
  void rescale(const BlockRescaling& rescaling) override;
  double block_loss(std::span<const LinearModule* const> layers,
                    std::span<const Matrix> weights) override;
  void replace(const LinearModule& module, const QuantizedLinear& q) override;

 private:
  void leave();
  // The block's output on the first windows, at most `windows` of them.
  Matrix outputs(const Block& block, const Matrix& x, int64_t windows) const;

  const Model& model_;
  FoldOptions options_;
  Batch batch_;
  Matrix x_;   // [T, hidden]
  Matrix x0_;  // empty without correction
  int64_t block_index_ = -1;
  Block original_;
  Block quantized_;
  Matrix expected_;  // outputs that block_loss compares with
  std::vector<std::pair<LinearModule, QuantizedLinear>> pending_;  // not true-sequential
};

}  // namespace nibble
