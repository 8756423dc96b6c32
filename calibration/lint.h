// Calibration lint: what a user should know about the tokens that calibration will see.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "calibration/windows.h"
#include "src/model/tokenizer.h"

namespace nibble {

// Tokens of calibration that the evaluation data has too. A token counts when it lies in a run of
// kRun tokens of one window, and the same run is somewhere in the evaluation stream (compared by
// 64-bit hashes). Shorter repetitions are common phrases.
struct Overlap {
  static constexpr int64_t kRun = 32;

  double token_share = 0.;  // of all tokens of the windows
  int64_t windows = 0;      // with such a token
};

Overlap overlap(const CalibrationWindows& windows, std::span<const int32_t> evaluation);

struct SpecialToken {
  int32_t id = 0;
  std::string text;
  int64_t count = 0;
};

struct CalibrationLint {
  DatasetCounts counts;
  int64_t windows = 0;
  int64_t seq_len = 0;
  // The rule of calibration_windows: text gets what the tokenizer adds, ids stay as they are.
  bool documents_start_with_bos = false;
  std::vector<SpecialToken> special_tokens;  // by id
  std::optional<Overlap> overlap;            // with an evaluation stream
};

// tokenizer: the model's, or null where there is none. evaluation: ids as token_stream of
// calibration/dataset.h makes them; empty: none.
CalibrationLint lint_calibration(const CalibrationWindows& windows, const Tokenizer* tokenizer,
                                 std::span<const int32_t> evaluation);

// For people, a sentence each; what did not happen is left out.
std::vector<std::string> describe(const CalibrationLint& lint);

}  // namespace nibble
