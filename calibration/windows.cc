#include "calibration/windows.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <string_view>
#include <utility>

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

// Adds documents, in order, until there are enough tokens.
void fill(const Dataset& dataset, const CalibrationOptions& options, const Tokenizer& tokenizer,
          CalibrationWindows& windows) {
  const auto wanted = static_cast<size_t>(options.samples * options.seq_len);
  for (const size_t index : shuffled(dataset.documents.size(), options.seed)) {
    if (windows.ids.size() >= wanted) break;
    std::vector<int32_t> ids = tokenizer.encode(dataset.documents[index]);
    if (!options.pack) {
      if (std::ssize(ids) < options.seq_len) {
        ++windows.documents_dropped;
        continue;
      }
      ids.resize(static_cast<size_t>(options.seq_len));
    }
    ++windows.documents_used;
    windows.ids.insert(windows.ids.end(), ids.begin(), ids.end());
  }
}

void note_duplicates(const Dataset& dataset, CalibrationWindows& windows) {
  std::set<std::string_view> distinct(dataset.documents.begin(), dataset.documents.end());
  const size_t duplicates = dataset.documents.size() - distinct.size();
  if (duplicates > 0) {
    windows.notes.push_back(std::to_string(duplicates) + " of " +
                            std::to_string(dataset.documents.size()) + " documents are duplicates");
  }
}

}  // namespace

CalibrationWindows calibration_windows(const CalibrationOptions& options,
                                       const Tokenizer* tokenizer, int64_t vocabulary_size) {
  Dataset dataset = read_dataset(options.dataset, options.dataset_options);
  const std::string where = options.dataset.string();
  CalibrationWindows windows;
  windows.seq_len = options.seq_len;
  windows.documents = std::ssize(dataset.documents);
  if (dataset.documents.empty()) {
    windows.ids = std::move(dataset.ids);
  } else {
    if (tokenizer == nullptr) throw Error(where, "is text, and the model has no tokenizer");
    note_duplicates(dataset, windows);
    fill(dataset, options, *tokenizer, windows);
  }
  windows.windows = std::min(options.samples, std::ssize(windows.ids) / options.seq_len);
  if (windows.windows == 0) {
    throw Error(where,
                std::to_string(windows.ids.size()) + " tokens, fewer than one window of " +
                    std::to_string(options.seq_len),
                "a longer dataset or a smaller --seq-len");
  }
  if (windows.windows < options.samples) {
    windows.notes.push_back("the dataset fills " + std::to_string(windows.windows) + " of " +
                            std::to_string(options.samples) + " windows");
  }
  if (windows.documents_dropped > 0) {
    windows.notes.push_back(std::to_string(windows.documents_dropped) +
                            " documents are shorter than a window and were dropped");
  }
  windows.ids.resize(static_cast<size_t>(windows.windows * options.seq_len));
  check_ids(windows.ids, vocabulary_size, where);
  return windows;
}

}  // namespace nibble
