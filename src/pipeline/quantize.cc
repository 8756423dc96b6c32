#include "src/pipeline/quantize.h"

#include <string>

#include "formats/json.h"
#include "src/pipeline/make_layers.h"
#include "src/pipeline/memory_meter.h"
#include "src/pipeline/plan.h"
#include "src/pipeline/progress.h"
#include "src/pipeline/recipe.h"
#include "src/pipeline/version.h"
#include "src/pipeline/write_model.h"
#include "src/tensor/dtype.h"
#include "src/tensor/stopwatch.h"

namespace nibble {
namespace {

Json manifest(const Plan& plan, const QuantizeReport& report) {
  Json json;
  json["nibble"] = kVersion;
  json["format"] = plan.format->name;
  json["recipe"] = to_json(plan.recipe);
  if (!report.calibration.is_null()) json["calibration"] = report.calibration;
  return json;
}

}  // namespace

QuantizeReport quantize(const Plan& plan, const OutputOptions& output, const Progress& progress) {
  const Stopwatch watch;
  MemoryMeter memory;
  QuantizeReport report;
  report.warnings = plan.warnings;
  LayerMaker layers(plan, report);
  const ModelOutput model{
      *plan.checkpoint,
      *plan.format,
      plan.modules,
      plan.tensors,
      output_config(plan.checkpoint->config(), *plan.format, format_modules(plan.modules),
                    plan.recipe.dtype, plan.unties_head),
      manifest(plan, report)};
  const WrittenModel written =
      write_model(model, output, "quantizing",
                  {.make = [&](const PlannedModule& module) { return layers.make(module); },
                   .in_any_order = layers.in_any_order(),
                   .take_rewritten = [&] { return layers.take_rewritten(); }},
                  progress);
  report.warnings.insert(report.warnings.end(), written.warnings.begin(), written.warnings.end());
  if (written.flushed > 0) {
    report.warnings.push_back(std::to_string(written.flushed) +
                              " values of unquantized tensors became zero in " +
                              std::string(dtype_name(*plan.recipe.dtype)));
  }
  report.bytes_out = written.bytes;
  report.peak_ram_bytes = memory.peak_bytes();
  report.seconds = watch.seconds();
  return report;
}

}  // namespace nibble
