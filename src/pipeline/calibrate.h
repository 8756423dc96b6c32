// calibrate: runs a dataset through a model once and keeps the statistics of every layer's inputs,
// for any number of `nibble quantize --stats`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "calibration/lint.h"
#include "calibration/windows.h"
#include "formats/checkpoint.h"
#include "src/model/config.h"
#include "src/pipeline/progress.h"
#include "src/pipeline/saved_statistics.h"
#include "src/tensor/tensor.h"

namespace nibble {

struct CalibrationData {
  CalibrationWindows windows;
  CalibrationLint lint;
};

// The windows of a calibration for one model: tokenized by its tokenizer, at most its context long.
// evaluation: a dataset that they should not share text with; empty: none.
CalibrationData read_windows(const Checkpoint& checkpoint, const Config& config,
                             CalibrationOptions options,
                             const std::filesystem::path& evaluation = {});

struct CalibrateOptions {
  CalibrationOptions calibration;
  std::filesystem::path output;
  std::filesystem::path overlap;  // evaluation data to compare the windows with; empty: none
  bool hold_out = false;          // every 8th window goes to statistics of its own, for the guard
  bool histograms = false;        // for ranges of static activations
  bool force = false;
  Device device = Device::kCpu;
  int64_t max_vram = 0;  // bytes of a GPU's memory; 0: nearly all that is free
};

struct CalibrateReport {
  struct Group {
    int64_t block = 0;
    std::string group;
    int64_t K = 0;
    int64_t dead = 0;        // inputs that are always zero
    bool rank_poor = false;  // fewer tokens than live inputs
  };
  StatisticsOrigin origin;
  std::vector<Group> groups;
  CalibrationLint lint;
  std::vector<std::string> warnings;
  int64_t tokens = 0;
  int64_t bytes_out = 0;
  int64_t peak_ram_bytes = 0;
  double seconds = 0;
};

// Throws Error; nothing is left under the output's name then.
CalibrateReport calibrate(std::shared_ptr<const Checkpoint> checkpoint,
                          const CalibrateOptions& options, const Progress& progress);

}  // namespace nibble
