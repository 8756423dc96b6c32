// Byte-pair encoding of words: of two neighbouring symbols, the pair that stands first in the list
// of merges is joined, leftmost first, until no pair is in the list.
// Sennrich, Haddow, Birch 2016, arXiv:1508.07909; unknown characters and byte fallback as in
// Hugging Face tokenizers (src/models/bpe/model.rs).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "src/model/pretokenizer.h"
#include "src/model/token_borders.h"

namespace nibble {

// Lets a map of strings be asked for a string_view.
struct TextHash {
  using is_transparent = void;  // NOLINT(readability-identifier-naming): the library's name
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using Vocabulary = std::unordered_map<std::string, int32_t, TextHash, std::equal_to<>>;

// left followed by right becomes `merged`; of several for one pair the last one counts.
struct Merge {
  int32_t left;
  int32_t right;
  int32_t merged;
};

struct BpeOptions {
  std::optional<int32_t> unknown;  // for a character without a token; without it, it is dropped
  bool fuse_unknown = false;       // a run of them is one token
  bool byte_fallback = false;      // a character without a token becomes its bytes <0xNN>
  bool ignore_merges = false;      // a word that is a token is that token
};

// ids are not negative. Constant after construction: threads may share it.
class Bpe {
 public:
  // merges: first to be applied first.
  Bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, const BpeOptions& options);

  // Appends the ids. O(n log n) in the length of a word; equal words of one call are merged once.
  void encode(const Words& words, std::vector<int32_t>& ids) const;

 private:
  // Open addressing from a pair to its rank and result: one cache line a look-up, where
  // unordered_map needs two or three.
  struct Slot {
    uint64_t pair;
    uint32_t rank;
    int32_t merged;
  };
  struct Symbol;
  struct Workspace;
  struct Cache;

  void insert(const Merge& merge, uint32_t rank);
  const Slot* find(int32_t left, int32_t right) const;
  void spell(std::string_view word, Workspace& work) const;
  void propose(int32_t left, Workspace& work) const;
  void merge(Workspace& work) const;
  std::optional<int32_t> whole(std::string_view word) const;
  void encode_cached(std::string_view word, Cache& cache, std::vector<int32_t>& ids) const;

  Vocabulary vocabulary_;
  BpeOptions options_;
  std::vector<int32_t> byte_ids_;  // of <0x00>..<0xFF>, -1 for none; empty without byte fallback
  std::vector<Slot> slots_;        // size is a power of two
  TokenBorders borders_;
};

}  // namespace nibble
