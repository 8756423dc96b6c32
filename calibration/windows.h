// Calibration windows: from a dataset to equally long runs of tokens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "calibration/dataset.h"
#include "src/model/tokenizer.h"

namespace nibble {

struct CalibrationOptions {
  std::filesystem::path dataset;  // empty: none
  DatasetOptions dataset_options;
  int64_t samples = 128;   // windows
  int64_t seq_len = 2048;  // tokens of a window; capped at the model's context by the caller
  uint64_t seed = 0;       // of the order of documents
  bool pack = true;        // documents joined and cut; otherwise each is cut to one window
};

struct CalibrationWindows {
  std::vector<int32_t> ids;  // [windows * seq_len]
  int64_t windows = 0;
  int64_t seq_len = 0;
  int64_t documents = 0;           // read
  int64_t documents_used = 0;      // with a token in some window
  int64_t documents_dropped = 0;   // shorter than a window, without packing
  std::vector<std::string> notes;  // what a user should know: fewer windows than asked, duplicates
};

// Documents are shuffled with the seed, each tokenized with the BOS its tokenizer adds, and joined
// without a separator; ids (.npy, .bin) are taken in order. Throws Error for a dataset shorter than
// one window and for ids outside the vocabulary.
CalibrationWindows calibration_windows(const CalibrationOptions& options,
                                       const Tokenizer* tokenizer, int64_t vocabulary_size);

}  // namespace nibble
