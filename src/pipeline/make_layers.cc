#include "src/pipeline/make_layers.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "calibration/lint.h"
#include "calibration/ranges.h"
#include "calibration/stats.h"
#include "calibration/weight_ranges.h"
#include "calibration/windows.h"
#include "formats/format.h"
#include "kernels/blas_tile.h"
#include "kernels/factorize.h"
#include "kernels/hessian.h"
#include "kernels/matmul.h"
#include "quantizers/solvers/correct_past.h"
#include "quantizers/solvers/gptq.h"
#include "quantizers/solvers/layer_error.h"
#include "quantizers/solvers/solver.h"
#include "quantizers/solvers/solvers.h"
#include "quantizers/transforms/awq_clip.h"
#include "src/architecture/architecture.h"
#include "src/model/layout.h"
#include "src/model/model.h"
#include "src/pipeline/block_inputs.h"
#include "src/pipeline/block_transforms.h"
#include "src/pipeline/calibrate.h"
#include "src/pipeline/fold.h"
#include "src/pipeline/held_out.h"
#include "src/pipeline/plan.h"
#include "src/pipeline/quantize.h"
#include "src/pipeline/recipe.h"
#include "src/pipeline/round_rows.h"
#include "src/pipeline/saved_statistics.h"
#include "src/pipeline/side_by_side.h"
#include "src/quantized/comparison.h"
#include "src/quantized/entropy.h"
#include "src/quantized/float_inputs.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/own_rows.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/stopwatch.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

void add_note(std::string& notes, const std::string& note) {
  notes += (notes.empty() ? "" : "; ") + note;
}

// The guard is worth its windows where methods may lose: at 3 bits and fewer.
constexpr int kGuardedBits = 3;

// Codebooks have no rounding to nearest to fall back on.
bool can_be_guarded(const PlannedModule& module) {
  return module.target.scheme && module.solver->needs == Needs::kHessian;
}

bool guards(const Recipe& recipe, const Plan& plan) {
  return std::any_of(plan.modules.begin(), plan.modules.end(), [&](const PlannedModule& m) {
    return can_be_guarded(m) && recipe.guard.value_or(m.target.scheme->grid.bits <= kGuardedBits);
  });
}

// The error is then that of the activations as much as of the weights.
bool is_w8a8(const Scheme& scheme) { return scheme.activations && scheme.grid.bits == 8; }

constexpr int64_t kTaskRows = 128;  // per task

// sum of a * b, in double.
double inner_product(ConstMatrixRef a, ConstMatrixRef b) {
  double sum = 0;
  for (int64_t row = 0; row < a.rows(); ++row) {
    sum += a.row(row).cast<double>().dot(b.row(row).cast<double>());
  }
  return sum;
}

// How far a layer is from the original's output on a sample: with E = W - Q,
//   |W X0 + R0 - (Q X + R)|^2 / T = tr(E H E') + 2 <E, W drift + residual> + what no Q changes.
class Judge {
 public:
  Judge(const Matrix& W, const InputSample& sample) : W_(W), sample_(sample) {
    if (sample.drift.size() == 0) return;
    // In tiles, as all that decides a code: the same bits for any number of threads.
    shift_.resize(W.rows(), W.cols());
#pragma omp parallel for schedule(dynamic)
    for (int64_t row = 0; row < W.rows(); row += kTaskRows) {
      const int64_t rows = std::min(kTaskRows, W.rows() - row);
      multiply_tile(W.middleRows(row, rows), sample.drift, shift_.middleRows(row, rows),
                    Accumulate::kNo);
    }
    if (sample.residual.size() != 0) shift_ += sample.residual;
  }

  double loss(const QuantizedLinear& q) const {
    const Matrix E = W_ - dequantize(q);
    const double coupled = shift_.size() == 0 ? 0. : 2. * inner_product(E, shift_);
    return quadratic_form(E, sample_.inputs.H) + coupled;
  }

 private:
  const Matrix& W_;
  const InputSample& sample_;
  Matrix shift_;  // [N, K] W drift + residual
};

// One input group of a block, as its layers are solved.
struct Group {
  InputGroup group = InputGroup::kAttention;
  GroupInputs inputs;
  std::optional<Factorization> factorization;
  int64_t layers = 0;  // that are quantized
};

// Memory of layers that were made, for those to come: the system clears fresh pages in as much time
// as rounding the weights takes.
class SpareMatrices {
 public:
  // Of this size; empty where there is none.
  Matrix take(int64_t size) {
    const std::lock_guard lock(mutex_);
    const auto found = std::ranges::find(spare_, size, [](const Matrix& m) { return m.size(); });
    if (found == spare_.end()) return {};
    Matrix taken = std::move(*found);
    spare_.erase(found);
    return taken;
  }

  void keep(Matrix matrix) {
    const std::lock_guard lock(mutex_);
    if (spare_.size() == kSideBySide) spare_.erase(spare_.begin());
    spare_.push_back(std::move(matrix));
  }

 private:
  std::mutex mutex_;
  std::vector<Matrix> spare_;  // the oldest first
};

}  // namespace

class LayerMaker::State {
 public:
  State(const Plan& plan, QuantizeReport& report) : plan_(plan), report_(report) {
    options_.gptq = plan.recipe.gptq;
    for (const PlannedModule& module : plan.modules) add_row(module);
    if (!plan.recipe.is_calibrated()) return;
    guard_ = guards(plan.recipe, plan);
    open_inputs();
  }

  QuantizedLinear make(const PlannedModule& module) {
    ModuleReport& row = report_.modules[rows_.at(module.target.name)];
    if (std::optional<QuantizedLinear> q = make_by_rows(module, row)) return std::move(*q);
    Matrix W = load_weight(*plan_.checkpoint, plan_.layout, module.module,
                           spare_.take(module.target.N * module.target.K));
    if (!module.module.weight.empty()) plan_.checkpoint->release(module.module.weight);
    const bool has_inputs = inputs_ != nullptr && module.module.block >= 0;
    QuantizedLinear q = has_inputs ? make_calibrated(module, W, row) : make_alone(module, W, row);
    describe_layer(q, compare(W, q), code_counts(q), row);  // W: as the transforms left it
    spare_.keep(std::move(W));
    return q;
  }

  static void describe_layer(const QuantizedLinear& q, const Comparison& comparison,
                             std::span<const int64_t> counts, ModuleReport& row) {
    const LayerErrors errors = layer_errors(comparison, q.N * q.K);
    row.weight_error = errors.weight_error;
    row.snr_db = errors.snr_db;
    row.clip_share = errors.clip_share;
    const CodeSizes sizes = code_sizes(counts, q.scheme.grid.bits);
    row.entropy_bits = sizes.entropy_bits;
    row.huffman_bits = static_cast<double>(sizes.huffman_bits + sizes.huffman_table_bits) /
                       static_cast<double>(q.N * q.K);
  }

  std::vector<NamedTensor> take_rewritten() { return std::exchange(rewritten_, {}); }

  bool in_any_order() const { return inputs_ == nullptr; }

 private:
  void add_row(const PlannedModule& module) {
    if (!module.target.scheme) return;
    rows_[module.target.name] = report_.modules.size();
    ModuleReport row;
    row.name = module.target.name;
    row.N = module.target.N;
    row.K = module.target.K;
    row.scheme = describe(*module.target.scheme);
    row.solver = module.solver->name;
    report_.modules.push_back(std::move(row));
  }

  void open_inputs() {
    const Recipe& recipe = plan_.recipe;
    if (recipe.statistics.empty()) {
      CalibrationData data =
          read_windows(*plan_.checkpoint, plan_.layout.config, recipe.calibration, recipe.overlap);
      const CalibrationWindows& windows = data.windows;
      report_.data = describe(data.lint);
      add_warnings(windows.notes);
      report_.calibration = {{"past", "quantized"},
                             {"dataset", dataset_fingerprint(windows)},
                             {"windows", windows.windows},
                             {"seq_len", windows.seq_len},
                             {"held_out", guard_ ? held_out_windows(windows.windows) : 0}};
      model_.emplace(plan_.checkpoint);
      inputs_ = std::make_unique<Fold>(*model_, windows,
                                       FoldOptions{.keep_original = corrects_past(),
                                                   .true_sequential = recipe.true_sequential,
                                                   .histograms = needs_histograms(),
                                                   .hold_out = guard_});
      return;
    }
    auto saved = std::make_unique<SavedStatistics>(recipe.statistics, *plan_.checkpoint,
                                                   plan_.layout.config, guard_);
    check_dataset(saved->origin());
    if (guard_ && saved->origin().held_out == 0) {
      guard_ = false;
      add_warnings({"no guard: " + recipe.statistics.string() +
                    " holds no held-out windows ('nibble calibrate --hold-out' keeps some)"});
    }
    report_.calibration = {{"past", "original"}, {"statistics", to_json(saved->origin())}};
    inputs_ = std::move(saved);
  }

  // With statistics, a dataset is what they must have been made of.
  void check_dataset(const StatisticsOrigin& origin) const {
    const Recipe& recipe = plan_.recipe;
    if (recipe.calibration.dataset.empty()) return;
    const CalibrationWindows windows =
        read_windows(*plan_.checkpoint, plan_.layout.config, recipe.calibration).windows;
    const std::string dataset = dataset_fingerprint(windows);
    if (dataset == origin.dataset) return;
    throw Error(recipe.statistics.string(),
                "statistics of other windows: made of " + origin.dataset + ", " +
                    recipe.calibration.dataset.string() + " with these options is " + dataset,
                "leave out --dataset, or run 'nibble calibrate' again");
  }

  void add_warnings(const std::vector<std::string>& warnings) {
    report_.warnings.insert(report_.warnings.end(), warnings.begin(), warnings.end());
  }

  QuantizedLinear make_alone(const PlannedModule& module, const Matrix& W, ModuleReport& row) {
    const Stopwatch watch;
    SolvedLayer solved = solve(module, W, {});
    row.seconds = watch.seconds();
    describe_solution(solved, row);
    return std::move(solved.result.q);
  }

  // Empty where the layer has to be made as a whole.
  std::optional<QuantizedLinear> make_by_rows(const PlannedModule& module, ModuleReport& row) {
    const LinearModule& source = module.module;
    const bool rounds = module.solver->needs != Needs::kHessian && inputs_ == nullptr;
    if (!rounds || plan_.recipe.weight_range || source.transposed || source.weight.empty() ||
        !has_own_rows(*module.target.scheme, source.K)) {
      return std::nullopt;
    }
    const Stopwatch watch;
    const Tensor stored = plan_.checkpoint->tensor(source.weight);
    std::optional<RoundedRows> rounded =
        round_rows(stored.view(), [&](const Matrix& W) { return solve(module, W, {}).result; });
    if (!rounded) return std::nullopt;
    plan_.checkpoint->release(source.weight);
    row.seconds = watch.seconds();
    SolvedLayer solved;
    solved.result = std::move(rounded->result);
    describe_solution(solved, row);
    describe_layer(solved.result.q, rounded->comparison, rounded->counts, row);
    return std::move(solved.result.q);
  }

  QuantizedLinear make_calibrated(const PlannedModule& module, Matrix& W, ModuleReport& row) {
    enter(module.module);
    rescaling_.apply_to(module.module.name, W);
    Group& group = group_of(module);
    const Stopwatch watch;
    const Matrix target = clipped(module, corrected(module, W, group), group, row);
    SolvedLayer solved = solve(module, target, layer_inputs(group));
    if (guard_) guard(module, W, group, solved, row);
    row.seconds = watch.seconds();
    if (group.factorization) {
      row.seconds += group.factorization->seconds / static_cast<double>(group.layers);
    }
    describe_solution(solved, row);
    QuantizedLinear& q = solved.result.q;
    set_input_scale(group, q, row);
    row.output_error = output_error(W, group.inputs.fitted.inputs.H, q);
    if (group.inputs.held_out.inputs.tokens > 0) {
      row.held_out_error = output_error(W, group.inputs.held_out.inputs.H, q);
    }
    inputs_->replace(module.module, q);
    return std::move(q);
  }

  void enter(const LinearModule& module) {
    if (block_ == module.block) return;
    inputs_->enter(module.block);
    block_ = module.block;
    group_.reset();
    rescaling_ = {};
    if (plan_.transforms.empty()) return;
    TransformedBlock transformed = transform_block(plan_, block_, *inputs_);
    rescaling_ = std::move(transformed.rescaling);
    if (!rescaling_.empty()) inputs_->rescale(rescaling_);
    std::move(transformed.rewritten.begin(), transformed.rewritten.end(),
              std::back_inserter(rewritten_));
    std::move(transformed.groups.begin(), transformed.groups.end(),
              std::back_inserter(report_.transforms));
  }

  Group& group_of(const PlannedModule& module) {
    if (group_ && group_->group == module.module.input) return *group_;
    group_.emplace();
    group_->group = module.module.input;
    group_->inputs = inputs_->collect(module.module.input);
    bool factorizes = group_->inputs.fitted.drift.size() != 0;
    for (const PlannedModule& other : plan_.modules) {
      if (other.module.block != block_ || other.module.input != group_->group) continue;
      if (other.solver == nullptr) continue;
      ++group_->layers;
      factorizes = factorizes || other.solver->needs == Needs::kHessian;
    }
    if (factorizes) {
      group_->factorization =
          factorize_for_gptq(group_->inputs.fitted.inputs.H, options_.gptq, module.target.name);
    }
    return *group_;
  }

  static LayerInputs layer_inputs(const Group& group) {
    return {.H = &group.inputs.fitted.inputs.H,
            .factorization = group.factorization ? &*group.factorization : nullptr};
  }

  double past_share(const PlannedModule& module) const {
    return plan_.recipe.past_share(is_w8a8(*module.target.scheme));
  }

  const RangeMethodRow& activation_range() const {
    return range_method(plan_.recipe.activation_range.value_or("mse"));
  }

  // Extremes are known without.
  bool needs_histograms() const {
    return plan_.has_searched_ranges() && activation_range().method != RangeMethod::kMinMax;
  }

  // NVFP4 has one scale for a whole tensor, and vLLM joins the layers that read the same input: it
  // spans them all, as the transforms left them. 0 where the layer has no such scale.
  float shared_largest(const PlannedModule& module) const {
    if (!is_nvfp4(*module.target.scheme)) return 0.F;
    float largest = 0.F;
    for (const PlannedModule& other : plan_.modules) {
      const bool is_sibling = other.module.block == module.module.block &&
                              other.module.input == module.module.input && other.target.scheme &&
                              is_nvfp4(*other.target.scheme);
      if (!is_sibling) continue;
      Matrix W = load_weight(*plan_.checkpoint, plan_.layout, other.module);
      rescaling_.apply_to(other.module.name, W);
      largest = std::max(largest, W.cwiseAbs().maxCoeff());
    }
    return largest;
  }

  bool corrects_past() const {
    return std::any_of(plan_.modules.begin(), plan_.modules.end(), [&](const PlannedModule& m) {
      return m.target.scheme && past_share(m) > 0;
    });
  }

  Matrix corrected(const PlannedModule& module, const Matrix& W, const Group& group) const {
    const InputSample& sample = group.inputs.fitted;
    const double share = past_share(module);
    if (sample.drift.size() == 0 || share == 0) return W;
    const PastSums sums{.input = &sample.drift,
                        .residual = sample.residual.size() == 0 ? nullptr : &sample.residual};
    return correct_past(W, sums, *group.factorization, share, module.target.name);
  }

  // awq without a solver that searches ranges itself; its authors leave query and key alone.
  Matrix clipped(const PlannedModule& module, Matrix W, const Group& group,
                 ModuleReport& row) const {
    const bool is_awq = std::find(plan_.transforms.begin(), plan_.transforms.end(), "awq") !=
                        plan_.transforms.end();
    const auto is_left_alone = [](Role role) { return role == Role::kQuery || role == Role::kKey; };
    if (!is_awq || !plan_.recipe.transform_options.clip || module.solver->name != "rtn" ||
        std::any_of(module.module.roles.begin(), module.module.roles.end(), is_left_alone)) {
      return W;
    }
    Scheme scheme = *module.target.scheme;
    scheme.activations.reset();
    ClippedWeights clipped =
        clip_weights(W, group.inputs.fitted.inputs.H, scheme, module.target.name);
    row.clipped_groups = clipped.clipped;
    return std::move(clipped.W);
  }

  SolvedLayer solve(const PlannedModule& module, const Matrix& W, const LayerInputs& inputs) const {
    return solve(*module.solver, module, W, inputs);
  }

  // Solvers choose weights; what becomes of the activations is added to their result.
  SolvedLayer solve(const Solver& solver, const PlannedModule& module, const Matrix& W,
                    const LayerInputs& inputs) const {
    const Scheme& scheme = *module.target.scheme;
    const Recipe& recipe = plan_.recipe;
    Matrix cut;
    if (recipe.weight_range) {
      const RangeMethod method = range_method(*recipe.weight_range).method;
      cut = cut_to_ranges(W, scheme, method, recipe.percentile);
    }
    LinearProblem problem{
        .W = recipe.weight_range ? cut : W, .scheme = scheme, .where = module.target.name};
    problem.shared_largest = shared_largest(module);
    problem.scheme.activations.reset();
    SolverOptions options = options_;
    options.gptq.sweeps =
        plan_.recipe.sweeps.value_or(is_w8a8(*module.target.scheme) ? 0 : options.gptq.sweeps);
    SolvedLayer solved = solver.solve(problem, inputs, options);
    solved.result.q.scheme.activations = module.target.scheme->activations;
    return solved;
  }

  // The stored scale of static activations, symmetric.
  void set_input_scale(const Group& group, QuantizedLinear& q, ModuleReport& row) const {
    if (!q.scheme.activations || q.scheme.activations->dynamic) return;
    const int bits = q.scheme.activations->bits;
    const InputStatistics& inputs = group.inputs.fitted.inputs;
    const float largest = inputs.largest.maxCoeff();
    if (q.scheme.activations->is_float) {
      const float scale = float_input_scale(*q.scheme.activations, largest);
      q.input_scale = Tensor::copy_of(Dtype::kF32, {1}, std::span(&scale, 1));
      return;
    }
    const float end = needs_histograms() ? range_end(inputs, bits) : largest;
    if (end < largest) {
      add_note(row.note, "input range ends at " +
                             std::to_string(std::lround(100. * double{end} / double{largest})) +
                             " % of the largest input");
    }
    const float scale = end == 0.F ? 1.F : 2.F * end / static_cast<float>((1 << bits) - 1);
    q.input_scale = Tensor::copy_of(Dtype::kF32, {1}, std::span(&scale, 1));
  }

  float range_end(const InputStatistics& inputs, int bits) const {
    if (inputs.histogram.total == 0) {
      throw Error(plan_.recipe.statistics.string(),
                  "--activation-range " + std::string(activation_range().name) +
                      " needs histograms of the inputs as they are quantized",
                  plan_.transforms.empty()
                      ? "run 'nibble calibrate --histograms', or choose --activation-range minmax"
                      : "transforms change them: give a dataset instead of --stats, or choose "
                        "--activation-range minmax");
    }
    const RangeOptions options = {
        .bits = bits, .symmetric = true, .percentile = plan_.recipe.percentile};
    return find_range(activation_range().method, inputs.histogram, options).high;
  }

  // Keeps round to nearest where it is nearer to the original on the held-out windows.
  void guard(const PlannedModule& module, const Matrix& W, const Group& group, SolvedLayer& solved,
             ModuleReport& row) const {
    const Solver& rounding = *module.rounding;
    if (!can_be_guarded(module) || group.inputs.held_out.inputs.tokens == 0) return;
    const Judge judge(W, group.inputs.held_out);
    SolvedLayer rounded = solve(rounding, module, W, layer_inputs(group));
    if (judge.loss(rounded.result.q) >= judge.loss(solved.result.q)) return;
    row.solver = rounding.name;
    add_note(row.note, "round to nearest kept: better than " + std::string(module.solver->name) +
                           " on held-out windows");
    solved = std::move(rounded);
  }

  static void describe_solution(const SolvedLayer& solved, ModuleReport& row) {
    row.damping = solved.damping;
    if (solved.result.rounding.raised_to_smallest > 0) {
      add_note(row.note, std::to_string(solved.result.rounding.raised_to_smallest) +
                             " scales raised to the smallest positive value of their type");
    }
    if (solved.escalations > 0) {
      add_note(row.note, "damping raised " + std::to_string(solved.escalations) + " times");
    }
    if (solved.dead_columns > 0) {
      add_note(row.note, std::to_string(solved.dead_columns) + " inputs are always zero");
    }
  }

  const Plan& plan_;
  QuantizeReport& report_;
  std::map<std::string, size_t> rows_;  // of the report, by module
  SpareMatrices spare_;
  SolverOptions options_;
  bool guard_ = false;
  std::optional<Model> model_;
  std::unique_ptr<BlockInputs> inputs_;
  int64_t block_ = -1;
  BlockRescaling rescaling_;
  std::optional<Group> group_;
  std::vector<NamedTensor> rewritten_;
};

LayerMaker::LayerMaker(const Plan& plan, QuantizeReport& report)
    : state_(std::make_unique<State>(plan, report)) {}
LayerMaker::~LayerMaker() = default;

QuantizedLinear LayerMaker::make(const PlannedModule& module) { return state_->make(module); }

bool LayerMaker::in_any_order() const { return state_->in_any_order(); }

std::vector<NamedTensor> LayerMaker::take_rewritten() { return state_->take_rewritten(); }

}  // namespace nibble
