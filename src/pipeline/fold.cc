#include "src/pipeline/fold.h"

#include <algorithm>
#include <utility>

#include "kernels/hessian.h"
#include "kernels/matmul.h"
#include "quantizers/solvers/correct_past.h"
#include "quantizers/solvers/layer_error.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// Tokens whose inputs are in memory together, twice.
constexpr int64_t kChunkTokens = 4096;

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
  throw Error(module.name, "the output head cannot be calibrated yet", "leave out --output-head");
}

// What a group sees on some windows.
struct Inputs {
  Matrix X;
  Matrix residual;
};

Inputs inputs_of(const Model& model, const Block& block, const Batch& batch, const Matrix& x,
                 InputGroup group) {
  Inputs inputs;
  model.observe(block, batch, x, group,
                [&](ConstMatrixRef X, ConstMatrixRef residual, int64_t first) {
                  if (inputs.X.size() == 0) {
                    inputs.X.resize(x.rows(), X.cols());
                    inputs.residual.resize(x.rows(), residual.cols());
                  }
                  inputs.X.middleRows(first, X.rows()) = X;
                  inputs.residual.middleRows(first, X.rows()) = residual;
                });
  return inputs;
}

}  // namespace

Fold::Fold(const Model& model, const CalibrationWindows& windows, const Recipe& recipe)
    : model_(model),
      recipe_(recipe),
      batch_{.windows = windows.windows, .window = windows.seq_len},
      x_(model.embed(windows.ids, batch_)) {
  if (recipe_.correct_past > 0) x0_ = x_;
}

FoldedLayer Fold::quantize(const PlannedModule& planned) {
  const LinearModule& module = planned.module;
  while (block_index_ < module.block) {
    leave_block();
    enter_block(block_index_ + 1);
  }
  const Statistics& stats = statistics(module);
  const Matrix W = load_weight(model_.checkpoint(), model_.layout(), module);
  const Matrix target = corrected(W, stats, module.name);
  const LinearProblem problem{
      .W = target, .scheme = *planned.target.scheme, .where = planned.target.name};
  FoldedLayer layer{.gptq = solve_gptq(problem, stats.H, stats.factorization, recipe_.gptq)};
  const QuantizedLinear& q = layer.gptq.solved.q;
  layer.weight_error = weight_error(W, q);
  layer.output_error = output_error(W, stats.H, q);
  replace(module, q);
  return layer;
}

void Fold::enter_block(int64_t index) {
  block_index_ = index;
  group_.reset();
  original_ = model_.load_block(index);
  quantized_ = model_.load_block(index);
}

void Fold::leave_block() {
  if (block_index_ < 0) return;
  for (auto& [module, weights] : pending_) linear_of(quantized_, module).dense = std::move(weights);
  pending_.clear();
  model_.forward(quantized_, batch_, x_);
  if (x0_.size() != 0) model_.forward(original_, batch_, x0_);
}

const Fold::Statistics& Fold::statistics(const LinearModule& module) {
  if (group_ != module.input) {
    statistics_ = collect(module);
    group_ = module.input;
  }
  return statistics_;
}

Fold::Statistics Fold::collect(const LinearModule& module) const {
  Statistics stats;
  const int64_t K = module.K;
  stats.H = Matrix::Zero(K, K);
  if (x0_.size() != 0) {
    stats.drift = Matrix::Zero(K, K);
    if (adds_to_residual(module.input)) stats.residual = Matrix::Zero(x_.cols(), K);
  }
  const int64_t step = std::max<int64_t>(1, kChunkTokens / batch_.window);
  for (int64_t first = 0; first < batch_.windows; first += step) {
    const Batch part{.windows = std::min(step, batch_.windows - first), .window = batch_.window};
    const int64_t row = first * batch_.window;
    const int64_t rows = part.windows * part.window;
    const Inputs now = inputs_of(model_, quantized_, part, x_.middleRows(row, rows), module.input);
    add_gram(now.X, stats.H);
    if (x0_.size() == 0) continue;
    const Inputs before =
        inputs_of(model_, original_, part, x0_.middleRows(row, rows), module.input);
    add_cross(before.X - now.X, now.X, stats.drift);
    if (stats.residual.size() != 0) {
      add_cross(before.residual - now.residual, now.X, stats.residual);
    }
  }
  const float share = 1.F / static_cast<float>(x_.rows());
  mirror_upper(stats.H);
  stats.H *= share;
  stats.drift *= share;
  stats.residual *= share;
  stats.factorization = factorize_for_gptq(stats.H, recipe_.gptq, module.name);
  return stats;
}

Matrix Fold::corrected(const Matrix& W, const Statistics& stats, const std::string& where) const {
  if (stats.drift.size() == 0) return W;
  const PastSums sums{.input = &stats.drift,
                      .residual = stats.residual.size() == 0 ? nullptr : &stats.residual};
  return correct_past(W, sums, stats.factorization, recipe_.correct_past, where);
}

void Fold::replace(const LinearModule& module, const QuantizedLinear& q) {
  PanelMatrix weights = make_panels(dequantize(q));
  if (recipe_.true_sequential) {
    linear_of(quantized_, module).dense = std::move(weights);
  } else {
    pending_.emplace_back(module, std::move(weights));
  }
}

}  // namespace nibble
