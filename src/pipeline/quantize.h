// quantize: runs a Plan block by block and writes the result, then re-opens what was written and
// compares it with what was meant before it gets its final name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/json.h"
#include "src/pipeline/plan.h"
#include "src/pipeline/progress.h"

namespace nibble {

struct OutputOptions {
  // GGUF: the file, where it ends so; else model.gguf in this folder.
  std::filesystem::path folder;
  int64_t shard_bytes = 5'000'000'000;
  bool force = false;  // replaces an existing folder
};

struct ModuleReport {
  std::string name;
  int64_t N = 0;
  int64_t K = 0;
  std::string scheme;
  std::string solver;                    // whose codes were kept
  double weight_error = 0;               // relative Frobenius norm of W - dequantize(q)
  std::optional<double> output_error;    // relative, from the Hessian; none without calibration
  std::optional<double> held_out_error;  // the same on windows kept out of it, where there are any
  std::optional<double> damping;         // share of the Hessian's mean diagonal
  double snr_db = 0;                     // of the weights; infinite where they are exact
  double clip_share = 0;                 // of weights beyond the ends of their block's grid
  double entropy_bits = 0;               // of a code
  double huffman_bits = 0;               // a weight, codes in their optimal prefix code, table too
  int64_t clipped_groups = 0;            // whose range awq's clip search shrank
  double seconds = 0;
  std::string note;
};

// What a transform did to one input group of a block.
struct TransformReport {
  int64_t block = 0;
  std::string group = {};
  std::string transform = {};
  std::string how = {};     // "ratio 0.45, duo", "alpha 0.80", "left alone: ..."
  double score_before = 0;  // in the transform's own unit: error of the outputs expected
  double score_after = 0;
  float smallest = 1;  // scale
  float largest = 1;
  int64_t limited = 0;  // channels whose norm could not take their scale
};

struct QuantizeReport {
  std::vector<ModuleReport> modules;
  std::vector<TransformReport> transforms;
  std::vector<std::string> data;  // what calibration saw, a sentence each
  Json calibration;               // what the statistics are of; null without
  std::vector<std::string> warnings;
  int64_t bytes_out = 0;  // of all files
  int64_t peak_ram_bytes = 0;
  double seconds = 0;
};

// Throws Error; nothing is left under the output's name then.
QuantizeReport quantize(const Plan& plan, const OutputOptions& output, const Progress& progress);

}  // namespace nibble
