// BlockInputs: where the statistics of the inputs of a block's linear layers come from: a running
// model (src/pipeline/fold.h) or a file of `nibble calibrate` (src/pipeline/saved_statistics.h).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "calibration/stats.h"
#include "src/model/config.h"
#include "src/model/layout.h"
#include "src/model/model.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {

// Tokens whose inputs are in memory together.
inline constexpr int64_t kChunkTokens = 4096;

// The input groups of a block, in the order of the forward pass.
inline constexpr std::array kBlockGroups = {InputGroup::kAttention, InputGroup::kAttentionOutput,
                                            InputGroup::kMlp, InputGroup::kMlpDown};
// "attention", "attention_output", "mlp", "mlp_down".
std::string_view input_group_name(InputGroup group);
// K, the inputs of the group's layers.
int64_t input_width(const Config& config, InputGroup group);

// What the transforms of a block do to it: W' = rows * W * columns, element by element, and the
// same for its statistics. Names and groups that are not there are as they were.
struct BlockRescaling {
  std::map<std::string, Vector> columns;  // by module, [K]
  std::map<std::string, Vector> rows;     // by module, [N]; of its bias too
  std::map<InputGroup, Vector> inputs;    // [K], the group's inputs are divided by them
  std::optional<NormWeights> attention_norm;
  std::optional<NormWeights> mlp_norm;

  bool empty() const { return inputs.empty(); }
  void apply_to(const std::string& module, Matrix& W) const;
};

// Sums over the same tokens, X what a layer sees in the quantized model, X0 in the original one.
struct InputSample {
  InputStatistics inputs;  // of X
  Matrix drift;            // (X0 - X)'X / T [K, K]; empty: not known, or no correction is asked for
  Matrix residual;         // (R0 - R)'X / T [hidden, K], R the stream that outputs are added to
};

struct GroupInputs {
  InputSample fitted;    // what codes are chosen by
  InputSample held_out;  // windows kept out of it, to judge by; no tokens: none were
};

// enter* in order, and in a block: collect, rescale, replace.
class BlockInputs {
 public:
  virtual ~BlockInputs() = default;

  // Leaves the block before, if any.
  virtual void enter(int64_t block) = 0;
  virtual GroupInputs collect(InputGroup group) = 0;
  // From now on the block's layers and their inputs are rescaled ones.
  virtual void rescale(const BlockRescaling& rescaling) = 0;
  // Squared error of the block's output on some windows if these layers of it [N, K] had these
  // weights; before rescale. Throws Error where there is no running model.
  virtual double block_loss(std::span<const LinearModule* const> layers,
                            std::span<const Matrix> weights) = 0;
  // A layer of the block as it was quantized.
  virtual void replace(const LinearModule& module, const QuantizedLinear& q) = 0;
};

}  // namespace nibble
