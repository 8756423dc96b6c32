// Recipe: what the user asked for, complete and without effects. The Plan (src/pipeline/plan.h) is
// what it means for one model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calibration/windows.h"
#include "formats/json.h"
#include "quantizers/solvers/gptq.h"
#include "src/tensor/dtype.h"

namespace nibble {

struct Recipe {
  std::string method = "rtn";
  int bits = 4;
  int64_t group_size = 128;  // columns; -1: the whole row
  bool symmetric = false;
  std::string format;                // empty: chosen by bits
  std::vector<std::string> include;  // regular expressions of module names; empty: all in blocks
  std::vector<std::string> exclude;
  std::optional<int> output_head_bits;  // the head is left alone without it
  std::optional<Dtype> dtype;           // of everything written dense; none: as stored
  bool requantize = false;              // a quantized model is decoded first

  CalibrationOptions calibration;
  GptqOptions gptq;
  double correct_past = 1;      // share of the quantized past's error that is made good, 0..1
  bool true_sequential = true;  // statistics again after each input group of a block
};

// hessian, mse, minmax. The second throws Error with the known names.
std::string_view scale_search_name(ScaleSearch search);
ScaleSearch scale_search_from_name(const std::string& name);

// As stored in the output (nibble.json) and printed with --json.
Json to_json(const Recipe& recipe);

// The format for a recipe that names none: compressed-tensors for 4 and 8 bits, gptq for 2 and 3,
// nibble for what no other format holds.
std::string default_format(int bits);

}  // namespace nibble
