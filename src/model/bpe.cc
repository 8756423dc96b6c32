#include "src/model/bpe.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "src/model/pretokenizer.h"
#include "src/model/utf8.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

constexpr uint64_t kNoPair = std::numeric_limits<uint64_t>::max();  // ids are below 2^31
constexpr int32_t kEnd = -1;

// Longer words hardly come twice; the bound keeps the cache small next to the text.
constexpr size_t kCachedBytes = 256;
constexpr size_t kCachedWords = size_t{1} << 18;

uint64_t pair_of(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

// Fibonacci hashing: the high bits of the product are well mixed.
size_t hash_of(uint64_t pair) { return static_cast<size_t>((pair * 0x9E3779B97F4A7C15u) >> 24); }

}  // namespace

// Of a word being merged: a doubly linked list inside one array.
struct Bpe::Symbol {
  int32_t id;  // kEnd once it has been joined to the one before it
  int32_t previous;
  int32_t next;
};

struct Bpe::Workspace {
  std::vector<Symbol> symbols;
  // rank << 32 | index of the left symbol; the lowest, that is the first merge, leftmost, on top.
  std::vector<uint64_t> heap;

  void add(int32_t id) {
    const auto index = static_cast<int32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({id, index - 1, kEnd});
  }
};

// Where words of one call are found again: their ids stand earlier in the result.
struct Bpe::Cache {
  struct Range {
    size_t begin;
    size_t count;
  };
  std::unordered_map<std::string_view, Range, TextHash, std::equal_to<>> seen;
  Workspace work;
};

Bpe::Bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, const BpeOptions& options)
    : vocabulary_(std::move(vocabulary)), options_(options) {
  size_t capacity = 16;
  while (capacity < 2 * merges.size()) capacity *= 2;
  slots_.assign(capacity, {kNoPair, 0, 0});
  uint32_t rank = 0;
  for (const Merge& merge : merges) insert(merge, rank++);
  for (const auto& [token, id] : vocabulary_) borders_.add(token);
  if (!options_.byte_fallback) return;
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    const auto entry = vocabulary_.find(std::string_view(name));
    byte_ids_.push_back(entry == vocabulary_.end() ? -1 : entry->second);
  }
}

void Bpe::insert(const Merge& merge, uint32_t rank) {
  const uint64_t pair = pair_of(merge.left, merge.right);
  size_t i = hash_of(pair) & (slots_.size() - 1);
  while (slots_[i].pair != kNoPair && slots_[i].pair != pair) i = (i + 1) & (slots_.size() - 1);
  slots_[i] = {pair, rank, merge.merged};
}

const Bpe::Slot* Bpe::find(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  for (size_t i = hash_of(pair) & (slots_.size() - 1);; i = (i + 1) & (slots_.size() - 1)) {
    if (slots_[i].pair == pair) return &slots_[i];
    if (slots_[i].pair == kNoPair) return nullptr;
  }
}

// One symbol per character. An unknown one waits for the next known one, so that a run can be
// fused; byte tokens do not end the wait (as tokenizers does it, which shows only where some byte
// tokens are missing).
void Bpe::spell(std::string_view word, Workspace& work) const {
  work.symbols.clear();
  bool unknown_waits = false;
  const auto flush = [&] {
    if (unknown_waits) work.add(*options_.unknown);
    unknown_waits = false;
  };
  for (size_t position = 0; position < word.size();) {
    const std::string_view character = word.substr(position, utf8_length(word[position]));
    position += character.size();
    const auto known = vocabulary_.find(character);
    if (known != vocabulary_.end()) {
      flush();
      work.add(known->second);
      continue;
    }
    const auto byte_id = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (!byte_ids_.empty() &&
        std::all_of(character.begin(), character.end(), [&](char c) { return byte_id(c) >= 0; })) {
      for (const char c : character) work.add(byte_id(c));
      continue;
    }
    if (!options_.unknown) continue;
    if (!options_.fuse_unknown) flush();
    unknown_waits = true;
  }
  flush();
}

void Bpe::propose(int32_t left, Workspace& work) const {
  const Symbol& symbol = work.symbols[static_cast<size_t>(left)];
  if (symbol.next == kEnd) return;
  const int32_t right_id = work.symbols[static_cast<size_t>(symbol.next)].id;
  const Slot* slot = find(symbol.id, right_id);
  if (slot == nullptr) return;
  work.heap.push_back((static_cast<uint64_t>(slot->rank) << 32) | static_cast<uint32_t>(left));
}

void Bpe::merge(Workspace& work) const {
  auto& symbols = work.symbols;
  auto& heap = work.heap;
  constexpr std::greater<> kLowestFirst;
  heap.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) propose(static_cast<int32_t>(i), work);
  std::make_heap(heap.begin(), heap.end(), kLowestFirst);
  const auto propose_sorted = [&](int32_t left) {
    const size_t before = heap.size();
    propose(left, work);
    if (heap.size() != before) std::push_heap(heap.begin(), heap.end(), kLowestFirst);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), kLowestFirst);
    const uint64_t best = heap.back();
    heap.pop_back();
    const auto index = static_cast<int32_t>(best & 0xFFFFFFFF);
    Symbol& left = symbols[static_cast<size_t>(index)];
    if (left.id == kEnd || left.next == kEnd) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    // Either symbol may have grown since; then the pair is another one, with another rank.
    const Slot* slot = find(left.id, right.id);
    if (slot == nullptr || slot->rank != best >> 32) continue;
    left.id = slot->merged;
    left.next = right.next;
    right.id = kEnd;
    if (left.next != kEnd) symbols[static_cast<size_t>(left.next)].previous = index;
    if (left.previous != kEnd) propose_sorted(left.previous);
    propose_sorted(index);
  }
}

std::optional<int32_t> Bpe::whole(std::string_view word) const {
  if (!options_.ignore_merges) return std::nullopt;
  const auto known = vocabulary_.find(word);
  return known == vocabulary_.end() ? std::nullopt : std::optional(known->second);
}

void Bpe::encode_cached(std::string_view word, Cache& cache, std::vector<int32_t>& ids) const {
  const auto known = cache.seen.find(word);
  if (known != cache.seen.end()) {
    const Cache::Range range = known->second;
    for (size_t k = 0; k < range.count; ++k) ids.push_back(ids[range.begin + k]);
    return;
  }
  if (word.size() > size_t{std::numeric_limits<int32_t>::max()}) {
    throw Error("text", "one word of more than 2 GiB", "cut the text into documents");
  }
  const size_t begin = ids.size();
  spell(word, cache.work);
  merge(cache.work);
  for (const Symbol& symbol : cache.work.symbols) {
    if (symbol.id != kEnd) ids.push_back(symbol.id);
  }
  if (word.size() <= kCachedBytes && cache.seen.size() < kCachedWords) {
    cache.seen.emplace(word, Cache::Range{begin, ids.size() - begin});
  }
}

void Bpe::encode(const Words& words, std::vector<int32_t>& ids) const {
  Cache cache;
  std::vector<size_t> ends;
  for (size_t i = 0; i < words.count(); ++i) {
    const std::string_view word = words.word(i);
    if (const auto id = whole(word)) {
      ids.push_back(*id);
      continue;
    }
    if (word.size() <= kCachedBytes) {
      encode_cached(word, cache, ids);
      continue;
    }
    borders_.cut(word, ends);
    size_t begin = 0;
    for (const size_t end : ends) {
      encode_cached(word.substr(begin, end - begin), cache, ids);
      begin = end;
    }
  }
}

}  // namespace nibble
