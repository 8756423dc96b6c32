#include "src/pipeline/quantize.h"

#include <chrono>
#include <utility>

#include "quantizers/solvers/solver.h"
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

ModuleReport report_of(const PlannedModule& module, const SolverResult& result, double seconds) {
  ModuleReport report;
  report.name = module.target.name;
  report.N = module.target.N;
  report.K = module.target.K;
  report.scheme = describe(*module.target.scheme);
  report.weight_error = result.weight_error;
  report.seconds = seconds;
  if (result.rounding.raised_to_smallest > 0) {
    report.note = std::to_string(result.rounding.raised_to_smallest) +
                  " scales raised to the smallest positive value of their type";
  }
  return report;
}

}  // namespace

QuantizeReport quantize(const Plan& plan, const OutputOptions& output, const Progress& progress) {
  const auto start = Clock::now();
  MemoryMeter memory;
  QuantizeReport report;
  report.warnings = plan.warnings;
  const Solver& solve = solver(std::string(method(plan.recipe.method).solver));

  const auto make_layer = [&](const PlannedModule& module) {
    const auto module_start = Clock::now();
    const Matrix W = load_weight(*plan.checkpoint, plan.layout, module.module);
    if (!module.module.weight.empty()) plan.checkpoint->release(module.module.weight);
    LinearProblem problem{.W = W, .scheme = *module.target.scheme, .where = module.target.name};
    SolverResult result = solve.solve(problem);
    report.modules.push_back(report_of(module, result, seconds_since(module_start)));
    return std::move(result.q);
  };

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
