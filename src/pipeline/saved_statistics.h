// Statistics of a model's inputs in a file: one safetensors file, written by `nibble calibrate`,
// read by `nibble quantize --stats`. They are the original model's: layers that are quantized do
// not change what later blocks saw ("past: original").
//
// Tensors, F32: block.<i>.<group>.hessian [K (K + 1) / 2], the upper triangle of X'X / T row by
// row; .mean_absolute [K], .largest [K] and, if asked for, a histogram of all values:
// .histogram_counts I64 [2048] and .histogram_place F64 [6], exponent, first, smallest, largest and
// the moving ones; the same under block.<i>.<group>.held_out, if windows were
// held out. Metadata: "nibble_statistics", a JSON object of StatisticsOrigin.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "calibration/stats.h"
#include "calibration/windows.h"
#include "formats/checkpoint.h"
#include "formats/json.h"
#include "src/model/config.h"
#include "src/pipeline/block_inputs.h"

namespace nibble {

// What statistics were made of.
struct StatisticsOrigin {
  std::string model;    // fingerprint, src/pipeline/fingerprint.h
  std::string dataset;  // fingerprint of the windows, their ids and length
  int64_t windows = 0;
  int64_t seq_len = 0;
  int64_t held_out = 0;  // windows of them
  Json options;          // of the calibration, as asked

  bool operator==(const StatisticsOrigin&) const = default;
};
std::string dataset_fingerprint(const CalibrationWindows& windows);
// Of windows that were made with these options.
StatisticsOrigin origin_of(const Checkpoint& checkpoint, const CalibrationWindows& windows,
                           const CalibrationOptions& options);
Json to_json(const StatisticsOrigin& origin);

struct StatisticsOptions {
  bool histograms = false;  // InputStatistics::histogram is written too
  bool replace = false;     // an existing file
};

// begin write* finish. Written beside the target and renamed when whole; the destructor removes
// what was not finished.
class StatisticsWriter {
 public:
  // Reserves the disk space. Throws Error when the target exists and is not to be replaced, and
  // when the disk has too little room, which it says.
  StatisticsWriter(const std::filesystem::path& file, const Config& config,
                   const StatisticsOrigin& origin, const StatisticsOptions& options);
  ~StatisticsWriter();
  StatisticsWriter(const StatisticsWriter&) = delete;
  StatisticsWriter& operator=(const StatisticsWriter&) = delete;

  int64_t bytes() const;  // of the file
  // Leftovers of killed processes that were removed: formats/atomic_folder.h.
  const std::vector<std::filesystem::path>& removed() const;
  void write(int64_t block, InputGroup group, bool held_out, const InputStatistics& statistics);
  void finish();

 private:
  class State;
  std::unique_ptr<State> state_;
};

class SavedStatistics : public BlockInputs {
 public:
  // hold_out: windows that were kept apart stay so; otherwise all count as one. Throws Error for a
  // file that is none, or that was made of another model.
  SavedStatistics(const std::filesystem::path& file, const Checkpoint& checkpoint,
                  const Config& config, bool hold_out);

  const StatisticsOrigin& origin() const { return origin_; }

  void enter(int64_t block) override;
  GroupInputs collect(InputGroup group) override;
  void rescale(const BlockRescaling& rescaling) override;
  double block_loss(std::span<const LinearModule* const> layers,
                    std::span<const Matrix> weights) override;
  void replace(const LinearModule& module, const QuantizedLinear& q) override;

 private:
  InputStatistics load(InputGroup group, bool held_out) const;

  Checkpoint file_;
  Config config_;
  bool hold_out_;
  StatisticsOrigin origin_;
  int64_t block_ = -1;
  BlockRescaling rescaling_;
};

}  // namespace nibble
