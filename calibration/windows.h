// Calibration windows: from a dataset to equally long runs of tokens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "calibration/dataset.h"
#include "src/model/tokenizer.h"

namespace nibble {

struct CalibrationOptions {
  std::filesystem::path dataset = {};  // empty: none
  DatasetOptions dataset_options = {};
  int64_t samples = 128;   // windows
  int64_t seq_len = 2048;  // tokens of a window; capped at the model's context by the caller
  uint64_t seed = 0;       // of the order of documents
  bool pack = true;        // documents joined and cut; otherwise each is cut to one window
};

// What became of the dataset. tokens_read = windows * seq_len + tokens_dropped + tokens_cut.
struct DatasetCounts {
  int64_t documents = 0;          // in the file; 0 for ids
  int64_t documents_used = 0;     // with a token in some window
  int64_t documents_dropped = 0;  // shorter than a window, without packing
  int64_t documents_cut = 0;      // longer than a window, without packing
  int64_t duplicates = 0;         // equal to an earlier document, used or not
  int64_t tokens_read = 0;        // of documents used or dropped, or of the file of ids
  int64_t tokens_dropped = 0;     // of documents_dropped
  int64_t tokens_cut = 0;         // behind the window of their document, or behind the last window
  // Added tokens flagged special, by id, and how often: what the documents read spell, without
  // those that the tokenizer adds itself. Of ids (given a tokenizer), all of them.
  std::map<int32_t, int64_t> special_tokens;
};

struct CalibrationWindows {
  std::vector<int32_t> ids;  // [windows * seq_len]
  int64_t windows = 0;
  int64_t seq_len = 0;
  DatasetCounts counts;
  std::vector<std::string> notes;  // what a user should know: fewer windows than asked, duplicates
};

// Documents are shuffled with the seed, each tokenized with what its tokenizer adds (BOS, if it
// does: at the start of every document, and so not of every window), and joined without a
// separator; ids (.npy, .bin) are taken in order, no BOS added. Throws Error for a dataset shorter
// than one window and for ids outside the vocabulary.
CalibrationWindows calibration_windows(const CalibrationOptions& options,
                                       const Tokenizer* tokenizer, int64_t vocabulary_size);

}  // namespace nibble
