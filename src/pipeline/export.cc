#include "src/pipeline/export.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/architecture/architecture.h"
#include "src/model/layout.h"
#include "src/pipeline/plan.h"
#include "src/pipeline/progress.h"
#include "src/pipeline/version.h"
#include "src/pipeline/write_model.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/stopwatch.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// The same numbers in another type, or nullopt when one of them would change.
std::optional<Tensor> exactly_as(const Tensor& tensor, Dtype type) {
  if (tensor.dtype() == type) return tensor;
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  to_float(tensor.view(), values);
  Tensor result = Tensor::allocate(type, tensor.shape());
  from_float(values, type, result.mutable_bytes());
  std::vector<float> back(values.size());
  to_float(result.view(), back);
  if (back != values) return std::nullopt;
  return result;
}

// Changes the scales to the type that the format stores, if that loses nothing.
void match_scale_type(QuantizedLinear& q, Dtype type, const std::string& module,
                      const Format& format) {
  if (!q.scheme.scale || q.scheme.scale->second || q.scheme.scale->type == type) return;
  if (!is_float(q.scheme.scale->type) || dtype_bits(q.scheme.scale->type) <= 8) return;
  std::optional<Tensor> scales = exactly_as(q.scale.values, type);
  if (!scales) {
    throw Error(module,
                std::string(format.name) + " stores scales as " + std::string(dtype_name(type)) +
                    ", and these " + std::string(dtype_name(q.scheme.scale->type)) +
                    " scales are not all representable in it",
                "the format 'nibble' keeps every type");
  }
  q.scale.values = std::move(*scales);
  q.scheme.scale->type = type;
  q.scheme.scale->bits = dtype_bits(type);
}

void check_exact(const Format& format, const FormatModule& module) {
  const std::string reason = format.refusal(module);
  if (reason.empty()) return;
  const std::string others = formats_that_hold(module);
  throw Error(
      module.name,
      std::string(format.name) + " cannot hold " + describe(*module.scheme) + " exactly: " + reason,
      others.empty() ? "" : "formats that can: " + others);
}

// Decodes modules in the form that the target format stores.
class Decoder {
 public:
  Decoder(const Checkpoint& checkpoint, const ModelLayout& layout, const Format& target)
      : checkpoint_(checkpoint), layout_(layout), target_(target) {}

  QuantizedLinear decode(const LinearModule& module) const {
    QuantizedLinear q = layout_.format->decode(checkpoint_, module.name, module.N, module.K);
    match_scale_type(q, target_.scale_type(layout_.config.dtype), module.name, target_);
    return q;
  }

 private:
  const Checkpoint& checkpoint_;
  const ModelLayout& layout_;
  const Format& target_;
};

std::vector<PlannedModule> plan_modules(const ModelLayout& layout, const Decoder& decoder,
                                        const Format& target, std::optional<Dtype> dtype) {
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
      const QuantizedLinear q = decoder.decode(module);
      planned.target.scheme = q.scheme;
      planned.target.has_column_groups = !q.group_of_column.empty();
      check_exact(target, planned.target);
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
  std::vector<PlannedModule> modules = plan_modules(layout, decoder, target, options.dtype);
  std::vector<PlannedTensor> tensors = plan_tensors(*checkpoint, layout, options.dtype);
  if (writes_one_file(target)) fit_to_one_file(layout, modules, tensors);

  Json manifest;
  manifest["nibble"] = kVersion;
  manifest["format"] = target.name;
  manifest["exported_from"] = layout.format->name;
  const ModelOutput model{
      *checkpoint,
      target,
      modules,
      tensors,
      output_config(checkpoint->config(), target, format_modules(modules), options.dtype, false),
      std::move(manifest)};
  const WrittenModel written = write_model(
      model, options.output, "exporting",
      {.make = [&](const PlannedModule& module) { return decoder.decode(module.module); }},
      progress);
  ExportReport report;
  report.modules = std::count_if(modules.begin(), modules.end(), [](const PlannedModule& m) {
    return m.target.scheme.has_value();
  });
  report.bytes_in = checkpoint->bytes();
  report.bytes_out = written.bytes;
  report.seconds = watch.seconds();
  return report;
}

}  // namespace nibble
