#include "src/pipeline/export.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "formats/manifest.h"
#include "src/architecture/architecture.h"
#include "src/model/layout.h"
#include "src/pipeline/plan.h"
#include "src/pipeline/progress.h"
#include "src/pipeline/version.h"
#include "src/pipeline/write_model.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/recast.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/stopwatch.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

FormatModule with_scheme_of(FormatModule module, const QuantizedLinear& q) {
  module.scheme = q.scheme;
  module.has_column_groups = !q.group_of_column.empty();
  return module;
}

// Changes the scales to the type that the format stores, if that loses nothing; what its refusal
// says of them is left to that.
void match_scale_type(QuantizedLinear& q, Dtype type, const FormatModule& module,
                      const Format& format) {
  if (format.name == "nibble") return;  // keeps every type
  if (!q.scheme.scale || q.scheme.scale->second || q.scheme.scale->type == type) return;
  if (!is_float(q.scheme.scale->type) || dtype_bits(q.scheme.scale->type) <= 8) return;
  std::optional<Tensor> scales = exactly_as(q.scale.values, type);
  if (!scales && !format.refusal(with_scheme_of(module, q)).empty()) return;
  if (!scales) {
    throw Error(module.name,
                std::string(format.name) + " stores scales as " + std::string(dtype_name(type)) +
                    ", and these " + std::string(dtype_name(q.scheme.scale->type)) +
                    " scales are not all representable in it",
                "the format 'nibble' keeps every type");
  }
  q.scale.values = std::move(*scales);
  q.scheme.scale->type = type;
  q.scheme.scale->bits = dtype_bits(type);
}

// Schemes of the target that the codes of others may fit, the smallest first.
std::vector<Scheme> related_schemes(const Format& target, const QuantizedLinear& q) {
  std::vector<Scheme> schemes;
  if (writes_one_file(target)) {
    for (const GgmlScheme& row : ggml_schemes()) {
      const Scheme& scheme = row.scheme;
      if (scheme.grid.kind == Grid::Kind::kInteger && !scheme.scale->second) {
        schemes.push_back(scheme);
      }
    }
    std::ranges::sort(schemes, {}, [&](const Scheme& s) { return bits_per_weight(s, q.N, q.K); });
  } else if (q.scheme.minimum && q.scheme.grid.kind == Grid::Kind::kInteger &&
             !q.scheme.scale->second) {
    schemes.push_back(
        integer_scheme(q.scheme.grid.bits, q.scheme.blocking.columns, false, q.scheme.scale->type));
  }
  return schemes;
}

}  // namespace

QuantizedLinear repacked(QuantizedLinear q, const FormatModule& module, const Format& target,
                         Dtype model_dtype) {
  match_scale_type(q, target.scale_type(model_dtype), module, target);
  const std::string refusal = target.refusal(with_scheme_of(module, q));
  if (refusal.empty()) return q;
  std::string reasons;
  for (const Scheme& scheme : related_schemes(target, q)) {
    Recast result = recast(q, scheme);
    if (result.q && target.refusal(with_scheme_of(module, *result.q)).empty()) {
      return std::move(*result.q);
    }
    const GgmlScheme* type = ggml_scheme(scheme);
    reasons += "; as " + (type != nullptr ? std::string(type->name) : describe(scheme)) + ": " +
               result.reason;
  }
  const std::string others = formats_that_hold(with_scheme_of(module, q));
  throw Error(module.name,
              std::string(target.name) + " cannot hold " + describe(q.scheme) +
                  " exactly: " + refusal + reasons,
              others.empty() ? "" : "formats that can: " + others);
}

namespace {

// Decodes modules in the form that the target format stores.
class Decoder {
 public:
  Decoder(const Checkpoint& checkpoint, const ModelLayout& layout, const Format& target)
      : checkpoint_(checkpoint), layout_(layout), target_(target) {}

  QuantizedLinear decode(const LinearModule& module, const FormatModule& target) const {
    return repacked(layout_.format->decode(checkpoint_, module.name, module.N, module.K), target,
                    target_, layout_.config.dtype);
  }

 private:
  const Checkpoint& checkpoint_;
  const ModelLayout& layout_;
  const Format& target_;
};

std::vector<PlannedModule> plan_modules(const ModelLayout& layout, const Decoder& decoder,
                                        std::optional<Dtype> dtype) {
  std::vector<PlannedModule> modules;
  for (const LinearModule& module : layout.linears) {
    PlannedModule planned;
    planned.module = module;
    planned.target = {.name = module.name,
                      .N = module.N,
                      .K = module.K,
                      .dtype = dtype.value_or(layout.config.dtype),
                      .transposed = layout.config.architecture->transposed &&
                                    module.input != InputGroup::kOutputHead,
                      .has_column_groups = false,
                      .scheme = {}};
    if (!module.quantized_tensors.empty()) {
      planned.target = with_scheme_of(planned.target, decoder.decode(module, planned.target));
    }
    modules.push_back(std::move(planned));
  }
  return modules;
}

std::vector<PlannedTensor> plan_tensors(const Checkpoint& checkpoint, const ModelLayout& layout,
                                        std::optional<Dtype> dtype) {
  std::set<std::string> parts;
  for (const LinearModule& module : layout.linears) {
    parts.insert(module.quantized_tensors.begin(), module.quantized_tensors.end());
  }
  std::vector<PlannedTensor> tensors;
  for (const auto& [name, stored] : checkpoint.tensors()) {
    if (parts.contains(name)) continue;
    TensorInfo written = stored.info;
    if (dtype && is_float(written.dtype)) written.dtype = *dtype;
    tensors.push_back({name, std::move(written)});
  }
  return tensors;
}

// What the source's manifest says of how its codes were made.
void keep_origin(const std::filesystem::path& source, Json& manifest) {
  const std::filesystem::path file = source / kManifestFile;
  if (!std::filesystem::is_regular_file(file)) return;
  const Json origin = read_json(file);
  if (!origin.is_object()) return;
  for (const char* key : {"recipe", "calibration"}) {
    if (origin.contains(key)) manifest[key] = origin.at(key);
  }
}

}  // namespace

ExportReport export_checkpoint(std::shared_ptr<const Checkpoint> checkpoint,
                               const ExportOptions& options, const Progress& progress) {
  const Stopwatch watch;
  const ModelLayout layout = read_layout(*checkpoint);
  if (layout.format == nullptr) {
    throw Error(checkpoint->folder().string(), "is not quantized",
                "'nibble quantize' makes codes; export repacks them");
  }
  const Format& target = format(options.format);
  const Decoder decoder(*checkpoint, layout, target);
  std::vector<PlannedModule> modules = plan_modules(layout, decoder, options.dtype);
  std::vector<PlannedTensor> tensors = plan_tensors(*checkpoint, layout, options.dtype);
  if (writes_one_file(target)) fit_to_one_file(layout, modules, tensors);

  Json manifest;
  manifest["nibble"] = kVersion;
  manifest["format"] = target.name;
  manifest["exported_from"] = layout.format->name;
  keep_origin(checkpoint->folder(), manifest);
  const ModelOutput model{
      *checkpoint,
      target,
      modules,
      tensors,
      output_config(checkpoint->config(), target, format_modules(modules), options.dtype, false),
      std::move(manifest)};
  const WrittenModel written =
      write_model(model, options.output, "exporting",
                  {.make =
                       [&](const PlannedModule& module) {
                         return decoder.decode(module.module, module.target);
                       },
                   .in_any_order = true},
                  progress);
  ExportReport report;
  report.modules = std::count_if(modules.begin(), modules.end(), [](const PlannedModule& m) {
    return m.target.scheme.has_value();
  });
  report.bytes_in = checkpoint->bytes();
  report.bytes_out = written.bytes;
  report.warnings = written.warnings;
  report.seconds = watch.seconds();
  return report;
}

}  // namespace nibble
