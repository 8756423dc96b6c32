#include "src/pipeline/fold.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "calibration/windows.h"
#include "kernels/hessian.h"
#include "kernels/matmul.h"
#include "src/architecture/architecture.h"
#include "src/model/layout.h"
#include "src/model/model.h"
#include "src/pipeline/block_inputs.h"
#include "src/pipeline/held_out.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

bool adds_to_residual(InputGroup group) {
  return group == InputGroup::kAttentionOutput || group == InputGroup::kMlpDown;
}

Linear& linear_of(Block& block, const LinearModule& module) {
  const auto find = [&](std::vector<Linear>& linears) -> Linear& {
    const auto found = std::find_if(linears.begin(), linears.end(),
                                    [&](const Linear& l) { return l.roles == module.roles; });
    if (found == linears.end()) throw Error(module.name, "is no layer of its block");
    return *found;
  };
  switch (module.input) {
    case InputGroup::kAttention:
      return find(block.attention);
    case InputGroup::kAttentionOutput:
      return block.attention_output;
    case InputGroup::kMlp:
      return find(block.mlp);
    case InputGroup::kMlpDown:
      return block.down;
    case InputGroup::kOutputHead:
      break;
  }
  throw Error(module.name, "is no layer of a block");
}

// As it will be served; dense, for the calibration windows go through it more than once.
void run_quantized(Linear& linear, const QuantizedLinear& q) {
  if (q.scheme.activations) {
    set_weights(linear, q);
  } else {
    set_weights(linear, make_panels(dequantize(q)));
  }
}

// What a group sees on some windows.
struct Seen {
  Matrix X;
  Matrix residual;
};

Seen see(const Model& model, const Block& block, const Batch& batch, const Matrix& x,
         InputGroup group) {
  Seen seen;
  model.observe(block, batch, x, group,
                [&](InputGroup at, ConstMatrixRef X, ConstMatrixRef residual, int64_t first) {
                  if (at != group) return;
                  if (seen.X.size() == 0) {
                    seen.X.resize(x.rows(), X.cols());
                    seen.residual.resize(x.rows(), residual.cols());
                  }
                  seen.X.middleRows(first, X.rows()) = X;
                  seen.residual.middleRows(first, X.rows()) = residual;
                });
  return seen;
}

// Adds up one InputSample.
class SampleSums {
 public:
  // hidden: of the residual stream; 0: outputs are not added to it.
  SampleSums(int64_t K, int64_t hidden, bool with_original, bool with_histogram)
      : inputs_(K, with_histogram) {
    if (!with_original) return;
    drift_ = Matrix::Zero(K, K);
    if (hidden > 0) residual_ = Matrix::Zero(hidden, K);
  }

  // Rows [first, first + count) of what was seen; `before` in the original model, or null.
  void add(const Seen& now, const Seen* before, int64_t first, int64_t count,
           const std::string& where) {
    const auto X = now.X.middleRows(first, count);
    inputs_.add(X, where);
    if (before == nullptr) return;
    add_cross(before->X.middleRows(first, count) - X, X, drift_);
    if (residual_.size() == 0) return;
    add_cross(before->residual.middleRows(first, count) - now.residual.middleRows(first, count), X,
              residual_);
  }

  InputSample finish() && {
    const float share = 1.F / static_cast<float>(std::max<int64_t>(1, inputs_.tokens()));
    drift_ *= share;
    residual_ *= share;
    return {.inputs = std::move(inputs_).finish(),
            .drift = std::move(drift_),
            .residual = std::move(residual_)};
  }

 private:
  InputSums inputs_;
  Matrix drift_;
  Matrix residual_;
};

// Relative change of a block's output that float arithmetic and rounded biases may make.
constexpr double kSameFunction = 1e-3;
constexpr int64_t kProbeWindows = 1;
constexpr int64_t kLossWindows = 8;

void rescale_block(const Model& model, int64_t index, const BlockRescaling& rescaling,
                   Block& block) {
  if (rescaling.attention_norm) block.attention_norm = *rescaling.attention_norm;
  if (rescaling.mlp_norm) block.mlp_norm = *rescaling.mlp_norm;
  for (const LinearModule& module : model.layout().linears) {
    if (module.block != index) continue;
    const auto rows = rescaling.rows.find(module.name);
    if (rows == rescaling.rows.end() && !rescaling.columns.contains(module.name)) continue;
    Matrix W = load_weight(model.checkpoint(), model.layout(), module);
    rescaling.apply_to(module.name, W);
    Linear& linear = linear_of(block, module);
    set_weights(linear, make_panels(W));
    if (rows != rescaling.rows.end() && linear.bias.size() != 0) {
      linear.bias = linear.bias.cwiseProduct(rows->second);
    }
  }
}

}  // namespace

Fold::Fold(const Model& model, const CalibrationWindows& windows, const FoldOptions& options)
    : model_(model),
      options_(options),
      batch_{.windows = windows.windows, .window = windows.seq_len},
      x_(model.embed(windows.ids, batch_)) {
  if (options_.keep_original) x0_ = x_;
}

void Fold::enter(int64_t block) {
  while (block_index_ < block) {
    leave();
    ++block_index_;
    expected_ = {};
    original_ = model_.load_block(block_index_);
    quantized_ = model_.load_block(block_index_);
  }
}

void Fold::leave() {
  if (block_index_ < 0) return;
  for (const auto& [module, q] : pending_) run_quantized(linear_of(quantized_, module), q);
  pending_.clear();
  model_.forward(quantized_, batch_, x_);
  if (x0_.size() != 0) model_.forward(original_, batch_, x0_);
}

GroupInputs Fold::collect(InputGroup group) {
  const int64_t K = input_width(model_.config(), group);
  const int64_t hidden = adds_to_residual(group) ? x_.cols() : 0;
  const bool with_original = x0_.size() != 0;
  const std::string where = "block " + std::to_string(block_index_);
  SampleSums fitted(K, hidden, with_original, options_.histograms);
  std::optional<SampleSums> held_out;
  if (options_.hold_out) held_out.emplace(K, hidden, with_original, false);

  const int64_t step = std::max<int64_t>(1, kChunkTokens / batch_.window);
  for (int64_t first = 0; first < batch_.windows; first += step) {
    const Batch part{.windows = std::min(step, batch_.windows - first), .window = batch_.window};
    const int64_t row = first * batch_.window;
    const int64_t rows = part.windows * part.window;
    const Seen now = see(model_, quantized_, part, x_.middleRows(row, rows), group);
    std::optional<Seen> before;
    if (with_original) before = see(model_, original_, part, x0_.middleRows(row, rows), group);
    for_window_runs(first, first + part.windows, options_.hold_out,
                    [&](int64_t begin, int64_t end, bool kept_out) {
                      (kept_out ? *held_out : fitted)
                          .add(now, before ? &*before : nullptr, (begin - first) * part.window,
                               (end - begin) * part.window, where);
                    });
  }
  GroupInputs inputs{.fitted = std::move(fitted).finish(), .held_out = {}};
  if (held_out) inputs.held_out = std::move(*held_out).finish();
  return inputs;
}

Matrix Fold::outputs(const Block& block, const Matrix& x, int64_t windows) const {
  const Batch batch{.windows = std::min(windows, batch_.windows), .window = batch_.window};
  Matrix y = x.topRows(batch.windows * batch.window);
  model_.forward(block, batch, y);
  return y;
}

void Fold::rescale(const BlockRescaling& rescaling) {
  const Matrix before = outputs(quantized_, x_, kProbeWindows);
  rescale_block(model_, block_index_, rescaling, quantized_);
  rescale_block(model_, block_index_, rescaling, original_);
  const double change = (outputs(quantized_, x_, kProbeWindows) - before).norm();
  if (change <= kSameFunction * before.norm()) return;
  throw Error("block " + std::to_string(block_index_),
              "its transforms changed its output by " + std::to_string(change / before.norm()) +
                  " of its norm, at most " + std::to_string(kSameFunction) + " is rounding",
              "a bug, or a model that computes at the edge of its type: leave the transform out");
}

double Fold::block_loss(std::span<const LinearModule* const> layers,
                        std::span<const Matrix> weights) {
  if (expected_.size() == 0) expected_ = outputs(quantized_, x_, kLossWindows);
  std::vector<PanelMatrix> kept;
  for (size_t i = 0; i < layers.size(); ++i) {
    Linear& linear = linear_of(quantized_, *layers[i]);
    kept.push_back(std::exchange(linear.dense, make_panels(weights[i])));
  }
  const double loss =
      (outputs(quantized_, x_, kLossWindows) - expected_).cast<double>().squaredNorm();
  for (size_t i = 0; i < layers.size(); ++i) {
    linear_of(quantized_, *layers[i]).dense = std::move(kept[i]);
  }
  return loss;
}

void Fold::replace(const LinearModule& module, const QuantizedLinear& q) {
  if (options_.true_sequential) {
    run_quantized(linear_of(quantized_, module), q);
  } else {
    pending_.emplace_back(module, q);
  }
}

}  // namespace nibble
