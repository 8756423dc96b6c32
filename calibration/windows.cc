#include "calibration/windows.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "calibration/dataset.h"
#include "src/model/tokenizer.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// Fisher-Yates with our own reduction of the random numbers: the standard's differs between
// libraries.
std::vector<size_t> shuffled(size_t count, uint64_t seed) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::mt19937_64 random(seed);
  for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  return order;
}

void check_ids(const std::vector<int32_t>& ids, int64_t vocabulary_size, const std::string& where) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocabulary_size) continue;
    throw Error(where,
                "token " + std::to_string(i) + " has id " + std::to_string(ids[i]) +
                    ", the model's vocabulary has " + std::to_string(vocabulary_size),
                "made with another model's tokenizer?");
  }
}

// Counts the special tokens among ids.
class SpecialTokenCounter {
 public:
  explicit SpecialTokenCounter(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
    added_ = count(tokenizer.encode(""));
  }

  std::map<int32_t, int64_t> count(const std::vector<int32_t>& ids) {
    std::map<int32_t, int64_t> found;
    for (const int32_t id : ids) {
      if (is_special(id)) ++found[id];
    }
    return found;
  }
  // Without what the tokenizer adds to every document.
  void add_document(const std::vector<int32_t>& ids, std::map<int32_t, int64_t>& sums) {
    for (const auto& [id, times] : count(ids)) {
      const auto added = added_.find(id);
      const int64_t spelled = times - (added == added_.end() ? 0 : added->second);
      if (spelled > 0) sums[id] += spelled;
    }
  }

 private:
  bool is_special(int32_t id) {
    const auto [entry, is_new] = known_.try_emplace(id, false);
    if (is_new)
      entry->second = tokenizer_.decode({&id, 1}, true) != tokenizer_.decode({&id, 1}, false);
    return entry->second;
  }

  const Tokenizer& tokenizer_;
  std::unordered_map<int32_t, bool> known_;
  std::map<int32_t, int64_t> added_;
};

// Adds documents, in order, until there are enough tokens.
void fill(const Dataset& dataset, const CalibrationOptions& options, const Tokenizer& tokenizer,
          CalibrationWindows& windows) {
  const auto wanted = static_cast<size_t>(options.samples * options.seq_len);
  DatasetCounts& counts = windows.counts;
  SpecialTokenCounter special(tokenizer);
  for (const size_t index : shuffled(dataset.documents.size(), options.seed)) {
    if (windows.ids.size() >= wanted) break;
    std::vector<int32_t> ids = tokenizer.encode(dataset.documents[index]);
    special.add_document(ids, counts.special_tokens);
    counts.tokens_read += std::ssize(ids);
    if (!options.pack) {
      if (std::ssize(ids) < options.seq_len) {
        ++counts.documents_dropped;
        counts.tokens_dropped += std::ssize(ids);
        continue;
      }
      if (std::ssize(ids) > options.seq_len) ++counts.documents_cut;
      ids.resize(static_cast<size_t>(options.seq_len));
    }
    ++counts.documents_used;
    windows.ids.insert(windows.ids.end(), ids.begin(), ids.end());
  }
}

void take_ids(Dataset& dataset, const Tokenizer* tokenizer, CalibrationWindows& windows) {
  windows.ids = std::move(dataset.ids);
  windows.counts.tokens_read = std::ssize(windows.ids);
  if (tokenizer == nullptr) return;
  windows.counts.special_tokens = SpecialTokenCounter(*tokenizer).count(windows.ids);
}

int64_t duplicates(const Dataset& dataset) {
  const std::set<std::string_view> distinct(dataset.documents.begin(), dataset.documents.end());
  return std::ssize(dataset.documents) - std::ssize(distinct);
}

// Once the windows are filled.
void add_notes(const CalibrationOptions& options, CalibrationWindows& windows) {
  const DatasetCounts& counts = windows.counts;
  if (counts.duplicates > 0) {
    windows.notes.push_back(std::to_string(counts.duplicates) + " of " +
                            std::to_string(counts.documents) + " documents are duplicates");
  }
  if (windows.windows < options.samples) {
    windows.notes.push_back("the dataset fills " + std::to_string(windows.windows) + " of " +
                            std::to_string(options.samples) + " windows");
  }
  if (counts.documents_dropped > 0) {
    windows.notes.push_back(std::to_string(counts.documents_dropped) +
                            " documents are shorter than a window and were dropped");
  }
  if (counts.documents_cut > 0) {
    windows.notes.push_back(std::to_string(counts.documents_cut) +
                            " documents are longer than a window: " +
                            std::to_string(counts.tokens_cut) + " tokens were cut");
  }
}

}  // namespace

CalibrationWindows calibration_windows(const CalibrationOptions& options,
                                       const Tokenizer* tokenizer, int64_t vocabulary_size) {
  Dataset dataset = read_dataset(options.dataset, options.dataset_options);
  const std::string where = options.dataset.string();
  CalibrationWindows windows;
  windows.seq_len = options.seq_len;
  windows.counts.documents = std::ssize(dataset.documents);
  windows.counts.duplicates = duplicates(dataset);
  if (dataset.documents.empty()) {
    take_ids(dataset, tokenizer, windows);
  } else {
    if (tokenizer == nullptr) throw Error(where, "is text, and the model has no tokenizer");
    fill(dataset, options, *tokenizer, windows);
  }
  windows.windows = std::min(options.samples, std::ssize(windows.ids) / options.seq_len);
  if (windows.windows == 0) {
    throw Error(where,
                std::to_string(windows.ids.size()) + " tokens, fewer than one window of " +
                    std::to_string(options.seq_len),
                "a longer dataset or a smaller --seq-len");
  }
  windows.ids.resize(static_cast<size_t>(windows.windows * options.seq_len));
  check_ids(windows.ids, vocabulary_size, where);
  windows.counts.tokens_cut =
      windows.counts.tokens_read - windows.counts.tokens_dropped - std::ssize(windows.ids);
  add_notes(options, windows);
  return windows;
}

}  // namespace nibble
