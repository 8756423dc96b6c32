// Recipe: what the user asked for, complete and without effects: on the command line, in a YAML
// file, and in every output's nibble.json. The Plan (src/pipeline/plan.h) is what it means for one
// model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calibration/windows.h"
#include "formats/json.h"
#include "quantizers/solvers/gptq.h"
#include "quantizers/transforms/transforms.h"
#include "src/pipeline/layer_scheme.h"
#include "src/tensor/dtype.h"

namespace nibble {

// What is asked of a linear layer; what is not set is the recipe's, and there the method's.
struct LayerChoice {
  SchemeChoice scheme;
  std::string solver;  // row of solvers(); empty: the method's
  // GGUF: where rows are no multiple of a type's 256 weights, the type that llama.cpp takes then
  // (src/pipeline/mixture.h); else an error.
  std::optional<bool> substitute;
};

// The linear layers whose name matches `modules` (a regular expression, found anywhere in it).
struct Rule {
  std::string modules;
  bool keep = false;  // left as they are
  LayerChoice choice;
};

struct Recipe {
  std::string method;  // row of methods(); empty: gptq with calibration, rtn without
  LayerChoice layers;
  std::optional<std::vector<std::string>>
      transforms;                    // rows of transforms(), instead of the method's
  std::vector<Rule> rules;           // the first that matches a layer holds
  std::string format;                // empty: chosen by the scheme
  std::vector<std::string> include;  // regular expressions of module names; empty: all in blocks
  std::vector<std::string> exclude;
  std::optional<int> output_head_bits;  // the head is left alone without it
  std::optional<Dtype> dtype;           // of everything written dense; none: as stored
  std::string embeddings;               // in GGUF: type of the token embedding; empty: as stored
  bool requantize = false;              // a quantized model is decoded first

  CalibrationOptions calibration;
  std::filesystem::path overlap;     // evaluation data to compare the windows with; empty: none
  std::filesystem::path statistics;  // of `nibble calibrate`, instead of a dataset; empty: none
  GptqOptions gptq;
  std::optional<int> sweeps;  // of gptq; none: 2, and 0 with 8-bit weights and activations
  TransformOptions transform_options;
  bool awq_block_search = false;  // awq scores on the block's output, not on the Hessian
  // Share of the quantized past's error that is made good, 0..1; none: 0.8, and 0 with 8-bit
  // weights and activations, whose rounding it takes for an error that weights can mend.
  std::optional<double> correct_past;
  std::optional<std::string> activation_range;  // of static activations, a row of range_methods();
                                                // none: mse
  std::optional<std::string> weight_range;      // of what rtn rounds, likewise; none: minmax
  double percentile = 99.99;                    // of these range methods, in per cent
  bool true_sequential = true;  // statistics again after each input group of a block
  std::optional<bool> guard;    // keep round to nearest where it is better on held-out windows;
                                // none: at 3 bits and fewer

  double past_share(bool is_w8a8) const { return correct_past.value_or(is_w8a8 ? 0. : 0.8); }
  bool is_calibrated() const { return !calibration.dataset.empty() || !statistics.empty(); }
};

// hessian, mse, minmax. The second throws Error with the known names.
std::string_view scale_search_name(ScaleSearch search);
ScaleSearch scale_search_from_name(const std::string& name);

// As stored in the output (nibble.json) and printed with --json.
Json to_json(const Recipe& recipe);

// A recipe file: YAML, whose keys are those of to_json (of which it may have any), or a
// nibble.json, whose recipe is taken. A relative dataset is looked for beside the file. Throws
// Error naming file and key for an unknown key (with the nearest) and a value of the wrong type.
Recipe read_recipe(const std::filesystem::path& file);

}  // namespace nibble
