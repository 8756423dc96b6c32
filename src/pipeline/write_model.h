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
  Json manifest;  // nibble.json, but for its list of files
};

// What is not copied from the source.
struct LayerSource {
  std::function<QuantizedLinear(const PlannedModule&)> make;  // in the order of the modules, or
  bool in_any_order = false;                                  // also several at the same time
  // Tensors that follow their block and were changed by the layers made so far, each once, with the
  // dtype and shape as planned. Null: none are.
  std::function<std::vector<NamedTensor>()> take_rewritten = {};
};

struct WrittenModel {
  int64_t bytes = 0;    // of all files
  int64_t flushed = 0;  // values of dense tensors that a narrower type rounded to zero
  std::vector<std::string> warnings;
};

// Throws Error; nothing is left under the output's name then.
WrittenModel write_model(const ModelOutput& output, const OutputOptions& options,
                         const std::string& stage, const LayerSource& layers,
                         const Progress& progress);

// Whether an output is one file and not a folder (GGUF).
bool writes_one_file(const Format& format);
// Names and types of such a file: without buffers and copies of the embedding, with the prefix that
// some checkpoints leave out, vectors in F32.
void fit_to_one_file(const ModelLayout& layout, std::vector<PlannedModule>& modules,
                     std::vector<PlannedTensor>& tensors);

// The modules as formats see them.
std::vector<FormatModule> format_modules(const std::vector<PlannedModule>& modules);

}  // namespace nibble
