#include "src/cli/calibration_options.h"

#include <string>

#include "calibration/windows.h"

namespace nibble {

void declare_windows(CLI::App& command, CalibrationOptions& calibration, std::string& ids_dtype) {
  command.add_option("-d,--dataset", calibration.dataset,
                     "calibration text (.txt .raw .jsonl .json, .gz) or ids (.npy .bin)");
  command.add_option("--samples", calibration.samples, "calibration windows")
      ->check(CLI::Range(1, 1'000'000'000))
      ->capture_default_str();
  command.add_option("--seq-len", calibration.seq_len, "tokens per window, at most the context")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--seed", calibration.seed, "of the order of documents")
      ->capture_default_str();
  command.add_flag("!--no-pack", calibration.pack,
                   "one document per window instead of joining them");
  command.add_option("--text-key", calibration.dataset_options.text_key, "key of the text in JSON")
      ->capture_default_str();
  command.add_option("--ids-dtype", ids_dtype, "integer type of .bin")->capture_default_str();
}

}  // namespace nibble
