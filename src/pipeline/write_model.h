// write_model: one model folder, from the tensors that stay and a function that makes each
// quantized layer; written, re-opened, compared, and only then given its name. quantize and export
// are both this with different layers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "src/pipeline/plan.h"
#include "src/pipeline/progress.h"
#include "src/pipeline/quantize.h"

namespace nibble {

struct ModelOutput {
  const Checkpoint& source;
  const Format& format;
  const std::vector<PlannedModule>& modules;
  const std::vector<PlannedTensor>& tensors;
  Json config;    // config.json
  Json manifest;  // nibble.json
};

using MakeLayer = std::function<QuantizedLinear(const PlannedModule&)>;

struct WrittenModel {
  int64_t bytes = 0;    // of all files
  int64_t flushed = 0;  // values of dense tensors that a narrower type rounded to zero
};

// Throws Error; nothing is left under the output's name then.
WrittenModel write_model(const ModelOutput& output, const OutputOptions& options,
                         const std::string& stage, const MakeLayer& make_layer,
                         const Progress& progress);

// The modules as formats see them.
std::vector<FormatModule> format_modules(const std::vector<PlannedModule>& modules);

}  // namespace nibble
