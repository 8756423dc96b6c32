// Plan: what a recipe means for one model: one row per linear layer with its scheme and solver, the
// tensors that will be written and exact bytes. Everything that can be refused is refused here,
// before any work.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "quantizers/solvers/solvers.h"
#include "src/model/layout.h"
#include "src/pipeline/recipe.h"
#include "src/quantized/ggml_schemes.h"

namespace nibble {

struct PlannedModule {
  LinearModule module;
  FormatModule target;               // scheme set: quantized; not set: left as it is
  const Solver* solver = nullptr;    // null: left as it is
  const Solver* rounding = nullptr;  // to nearest, what solvers are compared with; null likewise
  int64_t bytes = 0;                 // written for the weight
};

// A tensor that is written as it is, or in another float type.
struct PlannedTensor {
  std::string source;
  TensorInfo written;
  bool follows_block = false;  // a transform of its block may rewrite it
  // Written as GGUF blocks of this type, under "<name>.<type>"; `written` is then what is read
  // back.
  const GgmlScheme* blocks = nullptr;

  // What lies in the file.
  TensorInfo stored() const;
};

struct Plan {
  Recipe recipe;
  std::shared_ptr<const Checkpoint> checkpoint;
  ModelLayout layout;
  const Format* format = nullptr;
  std::vector<std::string> transforms;  // rows of transforms(), in order
  std::vector<PlannedModule> modules;   // all linear layers, block by block
  std::vector<PlannedTensor> tensors;   // everything else
  bool unties_head = false;             // a tied head is quantized, so it gets a tensor of its own
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  double bits_per_weight = 0;  // of the quantized linear layers, parameters included
  std::vector<std::string> warnings;

  bool has_static_activations() const;
  // Static activations in integers: those in floats need no range but the largest magnitude.
  bool has_searched_ranges() const;
};

// Throws Error naming the module for what the format cannot hold, for patterns that match nothing,
// and for a model that is quantized already unless recipe.requantize.
Plan make_plan(const Recipe& recipe, std::shared_ptr<const Checkpoint> checkpoint);

// Formats that can hold a module exactly, for messages.
std::string formats_that_hold(const FormatModule& module);

// The config.json of the output: the model's, its quantization config replaced by the format's, its
// dtype and tying as written.
Json output_config(const Json& config, const Format& format, std::span<const FormatModule> modules,
                   std::optional<Dtype> dtype, bool unties_head);

// Declares every tensor of `tensors` and `modules` in natural order of name.
std::vector<TensorInfo> output_tensors(const Format& format, std::span<const PlannedModule> modules,
                                       std::span<const PlannedTensor> tensors);

}  // namespace nibble
