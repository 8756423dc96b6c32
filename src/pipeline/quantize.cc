#include "src/pipeline/quantize.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "quantizers/solvers/solver.h"
#include "src/model/tokenizer.h"
#include "src/pipeline/fold.h"
#include "src/pipeline/memory_meter.h"
#include "src/pipeline/method.h"
#include "src/pipeline/version.h"
#include "src/pipeline/write_model.h"

namespace nibble {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Json manifest(const Plan& plan) {
  Json json;
  json["nibble"] = kVersion;
  json["format"] = plan.format->name;
  json["recipe"] = to_json(plan.recipe);
  return json;
}

void add_note(std::string& notes, const std::string& note) {
  notes += (notes.empty() ? "" : "; ") + note;
}

ModuleReport report_of(const PlannedModule& module, const SolverResult& result) {
  ModuleReport report;
  report.name = module.target.name;
  report.N = module.target.N;
  report.K = module.target.K;
  report.scheme = describe(*module.target.scheme);
  report.weight_error = result.weight_error;
  if (result.rounding.raised_to_smallest > 0) {
    add_note(report.note, std::to_string(result.rounding.raised_to_smallest) +
                              " scales raised to the smallest positive value of their type");
  }
  return report;
}

// Makes layers without calibration, each from its weights alone.
class RoundingLayers {
 public:
  explicit RoundingLayers(const Plan& plan)
      : plan_(plan), solver_(solver(std::string(method(plan.recipe.method).solver))) {}

  QuantizedLinear make(const PlannedModule& module, ModuleReport& report) const {
    const Matrix W = load_weight(*plan_.checkpoint, plan_.layout, module.module);
    if (!module.module.weight.empty()) plan_.checkpoint->release(module.module.weight);
    const LinearProblem problem{
        .W = W, .scheme = *module.target.scheme, .where = module.target.name};
    SolverResult result = solver_.solve(problem);
    report = report_of(module, result);
    return std::move(result.q);
  }

 private:
  const Plan& plan_;
  const Solver& solver_;
};

CalibrationWindows read_windows(const Plan& plan) {
  const Config& config = plan.layout.config;
  CalibrationOptions options = plan.recipe.calibration;
  options.seq_len = std::min(options.seq_len, config.context);
  const bool is_text = !dataset_is_ids(options.dataset);
  std::optional<Tokenizer> tokenizer;
  if (is_text) tokenizer = Tokenizer::open(plan.checkpoint->folder());
  return calibration_windows(options, is_text ? &*tokenizer : nullptr, config.vocabulary_size);
}

// Makes layers with calibration, in the order of the model.
class CalibratedLayers {
 public:
  CalibratedLayers(const Plan& plan, std::vector<std::string>& warnings)
      : model_(plan.checkpoint), fold_(model_, read(plan, warnings), plan.recipe) {}

  QuantizedLinear make(const PlannedModule& module, ModuleReport& report) {
    FoldedLayer layer = fold_.quantize(module);
    const GptqResult& result = layer.gptq;
    report = report_of(module, result.solved);
    report.weight_error = layer.weight_error;
    report.output_error = layer.output_error;
    report.damping = result.damping;
    if (result.escalations > 0) {
      add_note(report.note, "damping raised " + std::to_string(result.escalations) + " times");
    }
    if (result.dead_columns > 0) {
      add_note(report.note, std::to_string(result.dead_columns) + " inputs are always zero");
    }
    return std::move(layer.gptq.solved.q);
  }

 private:
  static CalibrationWindows read(const Plan& plan, std::vector<std::string>& warnings) {
    CalibrationWindows windows = read_windows(plan);
    warnings.insert(warnings.end(), windows.notes.begin(), windows.notes.end());
    return windows;
  }

  Model model_;
  Fold fold_;
};

MakeLayer make_layers(const Plan& plan, QuantizeReport& report) {
  const auto timed = [&report](const auto& make) {
    return [&report, make](const PlannedModule& module) {
      const auto start = Clock::now();
      ModuleReport row;
      QuantizedLinear q = make(module, row);
      row.seconds = seconds_since(start);
      report.modules.push_back(std::move(row));
      return q;
    };
  };
  if (method(plan.recipe.method).needs_calibration) {
    const auto layers = std::make_shared<CalibratedLayers>(plan, report.warnings);
    return timed([layers](const auto& module, auto& row) { return layers->make(module, row); });
  }
  const auto layers = std::make_shared<RoundingLayers>(plan);
  return timed([layers](const auto& module, auto& row) { return layers->make(module, row); });
}

}  // namespace

QuantizeReport quantize(const Plan& plan, const OutputOptions& output, const Progress& progress) {
  const auto start = Clock::now();
  MemoryMeter memory;
  QuantizeReport report;
  report.warnings = plan.warnings;
  const MakeLayer make_layer = make_layers(plan, report);
  const ModelOutput model{
      *plan.checkpoint,
      *plan.format,
      plan.modules,
      plan.tensors,
      output_config(plan.checkpoint->config(), *plan.format, format_modules(plan.modules),
                    plan.recipe.dtype, plan.unties_head),
      manifest(plan)};
  const WrittenModel written = write_model(model, output, "quantizing", make_layer, progress);
  if (written.flushed > 0) {
    report.warnings.push_back(std::to_string(written.flushed) +
                              " values of unquantized tensors became zero in " +
                              std::string(dtype_name(*plan.recipe.dtype)));
  }
  report.bytes_out = written.bytes;
  report.peak_ram_bytes = memory.peak_bytes();
  report.seconds = seconds_since(start);
  return report;
}

}  // namespace nibble
