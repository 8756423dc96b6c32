#include "src/pipeline/calibrate.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "calibration/dataset.h"
#include "calibration/lint.h"
#include "calibration/stats.h"
#include "calibration/windows.h"
#include "formats/atomic_folder.h"
#include "formats/checkpoint.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/model/device_inputs.h"
#include "src/model/gpu_inputs.h"
#include "src/model/model.h"
#include "src/model/tokenizer.h"
#include "src/pipeline/block_inputs.h"
#include "src/pipeline/held_out.h"
#include "src/pipeline/memory_meter.h"
#include "src/pipeline/progress.h"
#include "src/pipeline/saved_statistics.h"
#include "src/tensor/matrix.h"
#include "src/tensor/stopwatch.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

CalibrateReport::Group describe_group(int64_t block, InputGroup group,
                                      const InputStatistics& statistics) {
  const int64_t K = statistics.H.rows();
  const int64_t dead = (statistics.H.diagonal().array() == 0.F).count();
  return {.block = block,
          .group = std::string(input_group_name(group)),
          .K = K,
          .dead = dead,
          .rank_poor = statistics.tokens < K - dead};
}

// The inputs of one block, added up.
class BlockSums {
 public:
  BlockSums(const Config& config, int64_t block, bool hold_out, bool histograms)
      : where_("block " + std::to_string(block)), hold_out_(hold_out) {
    for (const InputGroup group : kBlockGroups) {
      fitted_.emplace(group, InputSums(input_width(config, group), histograms));
      if (hold_out) held_out_.emplace(group, InputSums(input_width(config, group), histograms));
    }
  }

  // Windows from `first_window` on, of `window` tokens.
  void add(InputGroup group, ConstMatrixRef X, int64_t first_window, int64_t window) {
    const int64_t last = first_window + X.rows() / window;
    for_window_runs(first_window, last, hold_out_, [&](int64_t begin, int64_t end, bool kept_out) {
      (kept_out ? held_out_ : fitted_)
          .at(group)
          .add(X.middleRows((begin - first_window) * window, (end - begin) * window), where_);
    });
  }

  // use(group, held out, statistics), after which those sums are gone.
  template <typename Use>
  void finish(const Use& use) {
    for (const InputGroup group : kBlockGroups) {
      use(group, false, std::move(fitted_.extract(group).mapped()).finish());
      if (hold_out_) use(group, true, std::move(held_out_.extract(group).mapped()).finish());
    }
  }

 private:
  std::string where_;
  bool hold_out_;
  std::map<InputGroup, InputSums> fitted_;
  std::map<InputGroup, InputSums> held_out_;
};

// Writes the statistics of every block, and describes their groups.
class Collected {
 public:
  Collected(StatisticsWriter& writer, CalibrateReport& report, int64_t layers,
            const Progress& progress)
      : writer_(writer), report_(report), layers_(layers), progress_(progress) {}

  void add(int64_t block, InputGroup group, bool held_out, const InputStatistics& statistics) {
    writer_.write(block, group, held_out, statistics);
    if (!held_out) report_.groups.push_back(describe_group(block, group, statistics));
  }
  void end_block(int64_t block) {
    if (!progress_) return;
    progress_({"calibrating", (block + 1) * report_.tokens, layers_ * report_.tokens, "tokens",
               "block " + std::to_string(block)});
  }

 private:
  StatisticsWriter& writer_;
  CalibrateReport& report_;
  int64_t layers_;
  const Progress& progress_;
};

void collect_on_cpu(const Model& model, const CalibrationWindows& windows, bool hold_out,
                    bool histograms, Collected& collected) {
  const Batch batch{.windows = windows.windows, .window = windows.seq_len};
  Matrix x = model.embed(windows.ids, batch);
  for (int64_t index = 0; index < model.config().layers; ++index) {
    const Block block = model.load_block(index);
    BlockSums sums(model.config(), index, hold_out, histograms);
    const int64_t step = std::max<int64_t>(1, kChunkTokens / batch.window);
    for (int64_t first = 0; first < batch.windows; first += step) {
      const Batch part{.windows = std::min(step, batch.windows - first), .window = batch.window};
      const Matrix tokens = x.middleRows(first * batch.window, part.windows * part.window);
      model.observe(block, part, tokens, InputGroup::kMlpDown,
                    [&](InputGroup group, ConstMatrixRef X, ConstMatrixRef, int64_t row) {
                      sums.add(group, X, first + row / part.window, part.window);
                    });
    }
    sums.finish([&](InputGroup group, bool held_out, const InputStatistics& statistics) {
      collected.add(index, group, held_out, statistics);
    });
    model.forward(block, batch, x);
    collected.end_block(index);
  }
}

void collect_on_gpu(const Model& model, const CalibrationWindows& windows, bool hold_out,
                    int64_t max_vram, Collected& collected) {
  const Batch batch{.windows = windows.windows, .window = windows.seq_len};
  KeptOut kept_out;
  for (int64_t window = 0; window < batch.windows; ++window) {
    kept_out.push_back(hold_out && is_held_out(window));
  }
  gpu_inputs(model, windows.ids, batch, kept_out, max_vram,
             [&](int64_t block, std::vector<GroupSums> groups) {
               for (GroupSums& sums : groups) {
                 collected.add(block, sums.group, sums.kept_out,
                               statistics_of(std::move(sums.gram), sums.columns, sums.tokens));
               }
               collected.end_block(block);
             });
}

}  // namespace

CalibrationData read_windows(const Checkpoint& checkpoint, const Config& config,
                             CalibrationOptions options, const std::filesystem::path& evaluation) {
  check_options(options.dataset, options.dataset_options);
  options.seq_len = std::min(options.seq_len, config.context);
  std::optional<Tokenizer> tokenizer;
  const bool needs_tokenizer =
      !dataset_is_ids(options.dataset) || (!evaluation.empty() && !dataset_is_ids(evaluation));
  if (needs_tokenizer) tokenizer = Tokenizer::open(checkpoint.folder());
  const Tokenizer* const known = tokenizer ? &*tokenizer : nullptr;
  std::vector<int32_t> stream;
  if (!evaluation.empty()) {
    stream = token_stream(read_dataset(evaluation, options.dataset_options), known,
                          config.vocabulary_size);
  }
  CalibrationData data;
  data.windows = calibration_windows(options, known, config.vocabulary_size);
  data.lint = lint_calibration(data.windows, known, stream);
  return data;
}

CalibrateReport calibrate(std::shared_ptr<const Checkpoint> checkpoint,
                          const CalibrateOptions& options, const Progress& progress) {
  const Stopwatch watch;
  MemoryMeter memory;
  const Model model(checkpoint);
  const CalibrationData data =
      read_windows(*checkpoint, model.config(), options.calibration, options.overlap);
  const CalibrationWindows& windows = data.windows;
  CalibrateReport report;
  report.lint = data.lint;
  report.warnings = windows.notes;
  report.tokens = windows.windows * windows.seq_len;
  report.origin = origin_of(*checkpoint, windows, options.calibration);
  if (options.hold_out) report.origin.held_out = held_out_windows(windows.windows);
  const bool hold_out = report.origin.held_out > 0;
  StatisticsWriter writer(options.output, model.config(), report.origin,
                          {.histograms = options.histograms, .replace = options.force});
  report.bytes_out = writer.bytes();
  for (std::string& warning : leftover_warnings(writer.removed())) {
    report.warnings.push_back(std::move(warning));
  }

  Collected collected(writer, report, model.config().layers, progress);
  if (options.device == Device::kCuda) {
    collect_on_gpu(model, windows, hold_out, options.max_vram, collected);
  } else {
    collect_on_cpu(model, windows, hold_out, options.histograms, collected);
  }
  writer.finish();
  report.peak_ram_bytes = memory.peak_bytes();
  report.seconds = watch.seconds();
  return report;
}

}  // namespace nibble
