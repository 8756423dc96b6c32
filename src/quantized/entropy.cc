#include "src/quantized/entropy.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <queue>
#include <span>
#include <utility>
#include <vector>

#include "src/quantized/quantized_linear.h"

namespace nibble {
namespace {

constexpr int64_t kParallelCodes = 1 << 20;
constexpr int64_t kTableEntryBits = 8;  // no word of 256 symbols is longer than 255 bits

constexpr size_t kTables = 8;
using Tables = std::array<std::array<int64_t, 256>, kTables>;

// codes: [kTables]
void add_codes(const uint8_t* codes, Tables& tables) {
  for (size_t i = 0; i < kTables; ++i) ++tables[i][codes[i]];
}

// Codes of four bits, two of them as one of eight: half the additions.
void add_pairs(const uint8_t* codes, Tables& tables) {
  uint64_t all = 0;
  static_assert(sizeof(all) == kTables);
  std::memcpy(&all, codes, sizeof(all));
  all |= all >> 4;
  for (size_t i = 0; i < kTables; i += 2) ++tables[i][(all >> (8 * i)) & 0xFF];
}

std::array<int64_t, 256> halves_of(const std::array<int64_t, 256>& pairs) {
  std::array<int64_t, 256> counts{};
  for (size_t pair = 0; pair < pairs.size(); ++pair) {
    counts[pair & 15] += pairs[pair];
    counts[pair >> 4] += pairs[pair];
  }
  return counts;
}

}  // namespace

std::array<int64_t, 256> code_counts(const QuantizedLinear& q) {
  const auto codes = q.codes.values<uint8_t>();
  const bool narrow = q.scheme.grid.bits <= 4;
  std::array<int64_t, 256> counts{};  // of pairs, where narrow
#pragma omp parallel if (std::ssize(codes) > kParallelCodes)
  {
    // Eight tables: equal codes near each other do not wait for each other's sums.
    Tables own{};
    const size_t whole = codes.size() / own.size() * own.size();
#pragma omp for schedule(static)
    for (size_t i = 0; i < whole; i += own.size()) {
      narrow ? add_pairs(&codes[i], own) : add_codes(&codes[i], own);
    }
#pragma omp critical
    for (const auto& table : own) {
      for (size_t c = 0; c < counts.size(); ++c) counts[c] += table[c];
    }
  }
  if (narrow) counts = halves_of(counts);
  for (size_t i = codes.size() / kTables * kTables; i < codes.size(); ++i) ++counts[codes[i]];
  return counts;
}

double entropy_bits(std::span<const int64_t> counts) {
  const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  double bits = 0.;
  for (const int64_t count : counts) {
    if (count == 0) continue;
    const double p = static_cast<double>(count) / total;
    bits -= p * std::log2(p);
  }
  return bits;
}

std::vector<int> huffman_lengths(std::span<const int64_t> counts) {
  using Node = std::pair<int64_t, size_t>;  // count, index; the lighter first
  std::priority_queue<Node, std::vector<Node>, std::greater<>> roots;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) roots.emplace(counts[i], i);
  }
  std::vector<size_t> parent(counts.size());  // inner nodes follow, children before parents
  while (roots.size() > 1) {
    const Node first = roots.top();
    roots.pop();
    const Node second = roots.top();
    roots.pop();
    parent[first.second] = parent[second.second] = parent.size();
    roots.emplace(first.first + second.first, parent.size());
    parent.push_back(0);
  }
  std::vector<int> depth(parent.size(), 0);
  for (size_t node = parent.size(); node-- > 0;) {
    if (parent[node] > node) depth[node] = depth[parent[node]] + 1;
  }
  depth.resize(counts.size());
  return depth;
}

CodeSizes code_sizes(const QuantizedLinear& q) {
  return code_sizes(code_counts(q), q.scheme.grid.bits);
}

CodeSizes code_sizes(std::span<const int64_t> counts, int bits) {
  const auto lengths = huffman_lengths(counts);
  CodeSizes sizes;
  sizes.entropy_bits = entropy_bits(counts);
  for (size_t c = 0; c < counts.size(); ++c) sizes.huffman_bits += counts[c] * lengths[c];
  sizes.huffman_table_bits = kTableEntryBits << bits;
  return sizes;
}

}  // namespace nibble
