#include "calibration/lint.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "calibration/windows.h"
#include "src/model/tokenizer.h"

namespace nibble {
namespace {

constexpr auto kRunLength = static_cast<size_t>(Overlap::kRun);

// Finalizer of SplitMix64: every bit of the sum reaches every bit of the hash.
uint64_t mixed(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

// Hashes of the runs that start at each place of ids; empty for fewer ids than a run. A sum of
// mixed ids times powers of an odd number: the next run's follows from it.
std::vector<uint64_t> run_hashes(std::span<const int32_t> ids) {
  constexpr uint64_t kFactor = 0xd1342543de82ef95U;
  uint64_t oldest = 1;  // kFactor^(run length)
  for (size_t i = 0; i < kRunLength; ++i) oldest *= kFactor;
  const auto value = [](int32_t id) { return mixed(static_cast<uint64_t>(id) + 1); };
  std::vector<uint64_t> hashes;
  uint64_t sum = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    sum = sum * kFactor + value(ids[i]);
    if (i >= kRunLength) sum -= oldest * value(ids[i - kRunLength]);
    if (i + 1 >= kRunLength) hashes.push_back(mixed(sum));
  }
  return hashes;
}

std::string of(int64_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f %%", 100. * share);
  return text;
}

std::string describe_windows(const CalibrationLint& lint) {
  const DatasetCounts& counts = lint.counts;
  std::string text = of(lint.windows, "window") + " of " + of(lint.seq_len, "token");
  if (counts.documents == 0) return text + ", ids as they are";
  text +=
      " from " + std::to_string(counts.documents_used) + " of " + of(counts.documents, "document");
  return text +
         (lint.documents_start_with_bos ? ", BOS at the start of each document" : ", no BOS");
}

}  // namespace

Overlap overlap(const CalibrationWindows& windows, std::span<const int32_t> evaluation) {
  const std::vector<uint64_t> hashes = run_hashes(evaluation);
  const std::unordered_set<uint64_t> known(hashes.begin(), hashes.end());
  Overlap result;
  int64_t tokens = 0;
  for (int64_t w = 0; w < windows.windows; ++w) {
    const auto length = static_cast<size_t>(windows.seq_len);
    const auto ids = std::span(windows.ids).subspan(static_cast<size_t>(w) * length, length);
    const std::vector<uint64_t> runs = run_hashes(ids);
    const int64_t before = tokens;
    size_t covered = 0;  // tokens before this one are counted
    for (size_t i = 0; i < runs.size(); ++i) {
      if (known.count(runs[i]) == 0) continue;
      tokens += static_cast<int64_t>(i + kRunLength - std::max(covered, i));
      covered = i + kRunLength;
    }
    if (tokens > before) ++result.windows;
  }
  const int64_t all = windows.windows * windows.seq_len;
  if (all > 0) result.token_share = static_cast<double>(tokens) / static_cast<double>(all);
  return result;
}

CalibrationLint lint_calibration(const CalibrationWindows& windows, const Tokenizer* tokenizer,
                                 std::span<const int32_t> evaluation) {
  CalibrationLint lint;
  lint.counts = windows.counts;
  lint.windows = windows.windows;
  lint.seq_len = windows.seq_len;
  lint.documents_start_with_bos =
      windows.counts.documents > 0 && tokenizer != nullptr && tokenizer->adds_bos();
  for (const auto& [id, count] : windows.counts.special_tokens) {
    lint.special_tokens.push_back(
        {id, tokenizer == nullptr ? "" : tokenizer->decode({&id, 1}, false), count});
  }
  if (!evaluation.empty()) lint.overlap = overlap(windows, evaluation);
  return lint;
}

std::vector<std::string> describe(const CalibrationLint& lint) {
  const DatasetCounts& counts = lint.counts;
  std::vector<std::string> lines = {describe_windows(lint)};
  if (counts.documents_dropped > 0) {
    lines.push_back(
        "dropped as shorter than a window: " + of(counts.documents_dropped, "document") + ", " +
        of(counts.tokens_dropped, "token"));
  }
  if (counts.documents_cut > 0) {
    lines.push_back("cut to one window: " + of(counts.documents_cut, "document"));
  }
  if (counts.tokens_cut > 0) {
    lines.push_back("read and left out behind windows: " + of(counts.tokens_cut, "token"));
  }
  if (counts.duplicates > 0) {
    lines.push_back("equal to an earlier one: " + of(counts.duplicates, "document"));
  }
  for (const SpecialToken& token : lint.special_tokens) {
    lines.push_back("special token '" + token.text + "' (id " + std::to_string(token.id) +
                    ") in the text: " + of(token.count, "time"));
  }
  if (lint.overlap) {
    lines.push_back("shared with the evaluation data, in runs of " + std::to_string(Overlap::kRun) +
                    " tokens or more: " + percent(lint.overlap->token_share) +
                    " of the tokens, in " + of(lint.overlap->windows, "window"));
  }
  return lines;
}

}  // namespace nibble
